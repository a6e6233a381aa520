"""``python -m benchmarks``: run, report, and put the report into the documentation."""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.machine import describe_machine
from benchmarks.parts import PARTS
from benchmarks.pictures import draw
from benchmarks.report import DOCS, markdown, read_json, write_docs, write_json
from benchmarks.scans import Shelf
from benchmarks.trainer import silence

OUTPUT = Path(__file__).parents[1] / "outputs" / "bench"


def main() -> int:
    options = _options()
    written = options.output / "bench.json"
    if options.write_docs:
        write_docs(read_json(written), DOCS)
        print(f"{DOCS}: tables of {written}")
        return 0
    silence()
    # What importing left behind stays: collections between measurements need not visit it.
    gc.collect()
    gc.freeze()
    start = time.perf_counter()
    options.output.mkdir(parents=True, exist_ok=True)
    run: dict[str, object] = {"quick": options.quick, "parts": {}}
    with tempfile.TemporaryDirectory(prefix="ptycho-torch-bench-", dir=options.scratch) as scratch:
        root = Path(scratch)
        run["machine"] = describe_machine(root)
        bench = Bench(root, Shelf(root), options.quick)
        parts = {}
        try:
            for letter in options.only:
                began = time.perf_counter()
                part = PARTS[letter](bench)
                part.seconds = time.perf_counter() - began
                parts[letter] = part.as_dict()
                print(f"{letter}: {part.title} ({part.seconds:.0f} s)", flush=True)
        finally:
            bench.close()
    run["parts"] = parts
    run["seconds"] = time.perf_counter() - start
    write_json(run, written)
    text = markdown(run)
    (options.output / "bench.md").write_text(text, encoding="utf-8")
    pictures = draw(run, options.output)
    print(f"\n{text}\n{written}, bench.md and {len(pictures)} pictures beside it")
    failed = [
        name for part in parts.values() for name, passed in part["checks"].items() if not passed
    ]
    for name in failed:
        print(f"NOT EQUAL: {name}")
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument(
        "--only",
        type=_letters,
        default=list(PARTS),
        metavar="a,c",
        help=f"the parts to run, of {','.join(PARTS)}; all where left out",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny sizes: show that everything runs, and measure nothing",
    )
    parser.add_argument(
        "--output", type=Path, default=OUTPUT, metavar="DIR", help="where the report goes"
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        metavar="DIR",
        help="where scans go (5 GB): on a disk, since memory has no cold cache",
    )
    parser.add_argument(
        "--write-docs",
        action="store_true",
        help="run nothing; put the tables of the last run into docs/explanation/performance.md",
    )
    return parser.parse_args()


def _letters(text: str) -> list[str]:
    letters = text.split(",")
    unknown = [letter for letter in letters if letter not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}"
        )
    return letters


if __name__ == "__main__":
    sys.exit(main())
