"""A stored scan is opened once: one descriptor, one directory, each array checked once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho_torch import read_scan, simulate_scan
from ptycho_torch.data import scan as scan_room

WATCH_THE_OPENING = """
import os, sys, zipfile
from ptycho_torch import read_scan

path, opened, parsed = sys.argv[1], [], []
sys.addaudithook(lambda event, args: event == "open" and str(args[0]) == path and opened.append(1))
genuine = zipfile.ZipFile._RealGetContents
zipfile.ZipFile._RealGetContents = lambda archive: parsed.append(1) or genuine(archive)
before = set(os.listdir("/proc/self/fd"))
scan = read_scan(path)
new = set(os.listdir("/proc/self/fd")) - before
left = [fd for fd in new if os.path.exists(f"/proc/self/fd/{fd}")]
total = float(scan.diff3d.sum())
print(len(opened), len(parsed), len(left), total)
"""


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    return simulate_scan(n_frames=20, N=16, seed=1).to_file(tmp_path / "scan.npz")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc: descriptors are not seen")
def test_a_stored_scan_is_opened_and_parsed_once_and_leaves_no_descriptor(stored: Path) -> None:
    arguments = [sys.executable, "-c", WATCH_THE_OPENING, str(stored)]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    opened, parsed, left, total = result.stdout.split()
    assert (opened, parsed, left) == ("1", "1", "0")
    assert float(total) == pytest.approx(float(read_scan(stored).diff3d.sum()))


def test_each_array_is_checked_once(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: Counter[str] = Counter()
    genuine = scan_room.check_array

    def count(array: Any, wanted: Any, sizes: dict[str, int]) -> Any:
        checked[wanted.name] += 1
        return genuine(array, wanted, sizes)

    monkeypatch.setattr(scan_room, "check_array", count)
    scan = read_scan(stored)
    names = "xcoords ycoords xcoords_start ycoords_start probeGuess scan_index objectGuess".split()
    assert checked == dict.fromkeys(names, 1)
    assert np.array_equal(scan.xcoords, read_scan(stored).xcoords)
