"""The benchmark of a GPU runs, every row of it; its figures are those of no device here."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: devices are its")
pytest.importorskip("h5py", reason="h5py is not installed: benchmarks need it")

from device_cases import scan_of  # noqa: E402


def test_every_row_of_the_benchmark_runs(tmp_path: Path) -> None:
    from benchmarks.bench import Bench
    from benchmarks.parts import gpu
    from benchmarks.scans import Shelf

    scan = tmp_path / gpu.STAR
    scan.parent.mkdir()
    scan_of(0).to_file(scan)
    bench = Bench(tmp_path, Shelf(tmp_path), quick=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTYCHO_TORCH_DATA", str(tmp_path))
        part = gpu.run(bench)
    assert len(part.figures) == 11
    assert all(math.isfinite(figure.value.median) for figure in part.figures)
    assert [target.what.split(",")[0] for target in part.targets] == [
        "device-resident assembly", "step", "ObjectFit of the star",
    ]  # fmt: skip
