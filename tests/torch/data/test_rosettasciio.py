"""4D-STEM through RosettaSciIO; a stand-in for it gives what its readers give."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import MissingDependencyError, OptionError, ScanError, ScanFileError
from ptycho_torch.data.raw_data import RawData, read_scan

ROWS, COLUMNS, N = 3, 4, 8


def signal(**changes: Any) -> dict[str, Any]:
    """What a file_reader gives: 200 keV, steps of 2 and 1 nm, 0.25 / nm a detector pixel."""
    data = np.random.default_rng(1).integers(1, 99, (ROWS, COLUMNS, N, N)).astype(np.uint16)
    scales = [(2.0, "nm"), (1.0, "nm"), (0.25, "1/nm"), (0.25, "1/nm")]
    axes = [
        {"index_in_array": i, "scale": scale, "units": units, "size": size}
        for i, ((scale, units), size) in enumerate(zip(scales, data.shape, strict=True))
    ]
    tem = {"Acquisition_instrument": {"TEM": {"beam_energy": 200.0}}}
    return {"data": data, "axes": axes, "metadata": tem, **changes}


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Read a file for which the stand-in gives these signals."""
    path = tmp_path / "scan.mib"
    path.write_bytes(b"0")

    def reading(*signals: Any, **options: Any) -> RawData:
        package, api = ModuleType("rsciio"), ModuleType("rsciio.stand_in")

        def file_reader(name: str, lazy: bool) -> list[Any]:
            assert name == str(path) and not lazy
            if not signals:
                raise ValueError("a bad header\nmore")
            return list(signals)

        package.IO_PLUGINS = [{"file_extensions": ["MIB"], "api": "rsciio.stand_in"}]  # type: ignore[attr-defined]
        api.file_reader = file_reader  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "rsciio", package)
        monkeypatch.setitem(sys.modules, "rsciio.stand_in", api)
        return read_scan(path, **{"measurement": "counts", "probe": "initial", **options})

    return reading


def test_raster_becomes_positions_in_object_pixels(read: Any) -> None:
    scan = read({"data": np.zeros((5, 5))}, signal())
    assert scan.geometry.object_pixel_m == pytest.approx(0.5e-9)
    assert scan.geometry.wavelength_m == pytest.approx(2.508e-12, rel=1e-3)
    np.testing.assert_allclose(scan.xcoords.reshape(ROWS, COLUMNS)[0], 6 + 2 * np.arange(COLUMNS))
    np.testing.assert_allclose(scan.ycoords.reshape(ROWS, COLUMNS)[:, 0], 6 + 4 * np.arange(ROWS))
    np.testing.assert_array_equal(scan.frames.stored, signal()["data"].reshape(-1, N, N))


def test_rotation_turns_columns_towards_rows(read: Any) -> None:
    plain, turned = read(signal()), read(signal(), rotation=90)
    np.testing.assert_allclose(np.diff(turned.ycoords), np.diff(plain.xcoords), atol=1e-9)
    np.testing.assert_allclose(np.diff(turned.xcoords), -np.diff(plain.ycoords), atol=1e-9)
    assert turned.metadata["rotation_deg"] == 90


def test_transpose_exchanges_the_axes_of_frames(read: Any) -> None:
    plain, turned = read(signal()), read(signal(), transpose=True)
    np.testing.assert_array_equal(
        turned.frames.stored[:, 1:, 1:], plain.frames.stored.swapaxes(1, 2)[:, 1:, 1:]
    )
    np.testing.assert_array_equal(turned.xcoords, plain.xcoords)


def test_angles_need_the_beam_energy(read: Any) -> None:
    axes = signal()["axes"][:2] + [
        {"index_in_array": i, "scale": 2.0, "units": "mrad", "size": N} for i in (2, 3)
    ]
    scan = read(signal(axes=axes))
    assert scan.geometry.object_pixel_m == pytest.approx(2.508e-12 / (N * 2e-3), rel=1e-3)
    with pytest.raises(
        ScanError, match=r"frame axes is without a scale.*--option object_pixel_m=METRES"
    ):
        read(signal(axes=axes, metadata={}))
    given = read(signal(axes=axes, metadata={}), object_pixel_m=1e-10, scan_step_m=(3e-10, 2e-10))
    assert given.geometry.object_pixel_m == pytest.approx(1e-10)
    assert given.xcoords[1] - given.xcoords[0] == pytest.approx(2)
    assert given.ycoords[COLUMNS] - given.ycoords[0] == pytest.approx(3)


def test_cropping_makes_the_object_pixel_larger(read: Any) -> None:
    scan = read(signal(), detector=Detector(size=4))
    assert scan.N == 4
    assert scan.geometry.object_pixel_m == pytest.approx(1e-9)
    assert scan.xcoords[1] - scan.xcoords[0] == pytest.approx(1)


def test_faults_are_one_line(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = [{**axis, "units": None} for axis in signal()["axes"][:2]] + signal()["axes"][2:]
    with pytest.raises(
        ScanError, match=r"scan axes is without a unit.*--option scan_step_m=METRES"
    ):
        read(signal(axes=bare))
    with pytest.raises(OptionError, match="scan_step_m is -1"):
        read(signal(), scan_step_m=-1)
    with pytest.raises(
        ScanError, match=r"data shape is \(5, 5\); expected \(rows, columns, H, W\)"
    ):
        read({"data": np.zeros((5, 5))})
    with pytest.raises(ScanFileError, match=r"scan.mib: file is not read by .* \(a bad header\)"):
        read()


def test_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scan.mib").write_bytes(b"0")
    monkeypatch.setitem(sys.modules, "rsciio", None)
    with pytest.raises(MissingDependencyError, match=r"scan.mib: .* pip install rosettasciio"):
        read_scan(tmp_path / "scan.mib")
