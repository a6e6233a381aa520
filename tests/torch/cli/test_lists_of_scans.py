"""Commands on directories and lists of scans, and on files that need a layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders import assert_one_line

from ptycho_torch import simulate_scan
from ptycho_torch.cli import main
from ptycho_torch.data.raw_data import read_scan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        scan = simulate_scan(n_frames=40 + number, N=16, seed=number, n_modes=1 + number)
        scan.to_file(tmp_path / f"scan_{number}.npz")
    lines = ["- {path: scan_0.npz, weight: 1.5}", "- {path: scan_2.npz, split: val}"]
    (tmp_path / "scans.yaml").write_text("\n".join(lines))
    return tmp_path


def test_inspect_prints_a_line_for_every_scan(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(folder / "scans.yaml")]) == 0
    head, first, last = capsys.readouterr().out.splitlines()
    assert head.split() == "frames N modes object step px groups weight part scan".split()
    assert first.split()[:3] == ["40", "16", "1"] and first.split()[-4:-1] == ["60", "1.5", "split"]
    assert last.split()[:3] == ["42", "16", "3"] and last.split()[-4:-1] == ["42", "1", "val"]
    assert main(["inspect", str(folder)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert main(["inspect", str(folder), "--png", str(folder / "all.png")]) == 2
    assert_one_line(capsys.readouterr().err, "--png", "several scans")


def test_prepare_takes_a_list(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", str(folder / "scans.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["scan_0.npz" in lines[0], "scan_2.npz" in lines[1]] == [True, True]
    assert len(list(folder.glob("*.groups_cache.npz"))) == 2


def test_convert_reads_by_a_layout(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed: nothing to read HDF5 with")
    scan = simulate_scan(n_frames=40, N=16, seed=0)
    with h5py.File(folder / "scan.h5", "w") as file:
        file["d"], file["x"], file["y"] = scan.frames.stored, scan.xcoords, scan.ycoords
        file["p"] = scan.probeGuess
    words = "measurement: amplitude\nframes: /d\npositions: {x: /x, y: /y, unit: px}\nprobe: /p\n"
    (folder / "my.yaml").write_text(words)
    out = folder / "out.npz"
    layout = ["--layout", str(folder / "my.yaml")]
    assert main(["convert", str(folder / "scan.h5"), str(out), *layout]) == 0
    np.testing.assert_array_equal(read_scan(out).frames.stored, scan.frames.stored)
    assert main(["inspect", str(folder / "scan.h5"), *layout]) == 0
    assert "40 x 16 x 16" in capsys.readouterr().out
