"""Every block of Python and every command of README and pages runs, as it is written.

The blocks of a page run one after the other in a folder of their own: Python in one process that
keeps its names from block to block, commands in a shell that stops at the first that fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders import ROOT
from page_files import put
from pages import PAGES, Block, blocks, needs, page_name

BLOCKS = {page: blocks(page) for page in PAGES}
RUN = [page for page, found in BLOCKS.items() if any(b.typed and not b.not_run for b in found)]
FORMATS = {".cxi", ".h5"}

# What is done with the blocks, given as JSON: names live on from one block of Python to the next.
RUNNER = """
import json, pathlib, subprocess, sys, warnings
names = {"__name__": "__main__"}
for kind, place, file, text in json.load(sys.stdin):
    if file:
        pathlib.Path(file).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(file).write_text(text, encoding="utf-8")
    elif kind == "python":
        print(f"-- {place}", flush=True)
        exec(compile(text, place, "exec"), names)
    else:
        print(f"-- {place}", flush=True)
        subprocess.run(["bash", "-euo", "pipefail", "-c", text], check=True)
"""
COMMAND = '#!/bin/sh\nexec {python} -c "from ptycho_torch.cli import main; exit(main())" "$@"\n'

# Blocks that nobody can type everywhere, by page; a new one is a decision.
NOT_RUN_AT_MOST = 16


def environment(folder: Path) -> dict[str, str]:
    """The reader's: the command and this Python on the path, caches and threads of their own."""
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    for name, text in {
        "ptycho-torch": COMMAND.format(python=sys.executable),
        "python": f'#!/bin/sh\nexec {sys.executable} "$@"\n',
    }.items():
        (bin_folder / name).write_text(text)
        (bin_folder / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "MPLBACKEND": "agg",
        "OMP_NUM_THREADS": "1",
    }


def run_page(found: list[Block], folder: Path, files: list[str]) -> None:
    """Type the blocks; the output says which one fails, and how."""
    import json

    work = folder / "work"
    work.mkdir()
    for name in files:
        put(name, work)
    typed = [
        (b.kind, f"{page_name(b.page)} line {b.line}", b.file, b.text)
        for b in found
        if (b.typed or b.file) and not b.not_run
    ]
    result = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(typed),
        cwd=work,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert result.returncode == 0, f"{result.stdout[-3000:]}\n{result.stderr[-3000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=page_name)
def test_blocks_run_as_written(page, tmp_path):
    pytest.importorskip("lightning", reason="torch is not installed: what the pages type")
    if FORMATS & {Path(name).suffix for name in needs(page)}:
        pytest.importorskip("h5py", reason="h5py is not installed: a page's scan")
    run_page(BLOCKS[page], tmp_path, needs(page))


@pytest.mark.parametrize("kind", ["python", "shell"])
def test_a_block_that_fails_fails_the_page(kind, tmp_path):
    text = {"python": "assert 1 == 2\n", "shell": "false\ntrue\n"}[kind]
    block = Block(PAGES[0], 7, kind, text, not_run="", file="")
    with pytest.raises(AssertionError, match="line 7"):
        run_page([block], tmp_path, [])


def test_blocks_that_are_not_run_are_few_and_say_why():
    left_out = [block for found in BLOCKS.values() for block in found if block.typed]
    left_out = [block for block in left_out if block.not_run]
    lines = [f"{page_name(b.page)} line {b.line}: {b.not_run}" for b in left_out]
    print("not run:", *lines, sep="\n")
    assert len(lines) <= NOT_RUN_AT_MOST, "\n".join(lines)


def test_the_pages_hold_many_blocks_and_most_run():
    typed = [block for found in BLOCKS.values() for block in found if block.typed]
    assert len(typed) > 30
    assert len([block for block in typed if not block.not_run]) > len(typed) / 2
