"""HDF5 files read as a layout says: every word has its effect, and every mistake its line."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho_torch import simulate_scan
from ptycho_torch.data.corrections import Corrections
from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import OptionError, PtychoTorchError, ScanError, ScanKeyError
from ptycho_torch.data.raw_data import RawData, read_scan
from ptycho_torch.data.readers.layout import layout_of, preset_names

h5py = pytest.importorskip("h5py", reason="h5py is not installed: nothing to read HDF5 with")

M, N, PIXEL_M = 40, 16, 8e-9
DOCS = Path(__file__).parents[3] / "docs"
Write = Callable[..., Path]

FULL: dict[str, Any] = {
    "measurement": "counts",
    "frames": "/entry/data",
    "positions": {"x": "/entry/x", "y": "/entry/y", "unit": "um"},
    "object_pixel": {"value": 8, "unit": "nm"},
    "probe": "/entry/probe",
}


@pytest.fixture(scope="module")
def scan() -> RawData:
    return simulate_scan(n_frames=M, N=N, photons=1e5, seed=3)


@pytest.fixture
def write(tmp_path: Path, scan: RawData) -> Write:
    """Write a scan of the usual arrays, some of them changed, those that are None left out."""

    def written(name: str = "scan.h5", **changes: Any) -> Path:
        counts = np.rint(scan.frames.stored.astype(np.float64) ** 2)
        held = {
            "entry/data": counts.astype(np.uint16 if counts.max() < 65000 else np.uint32),
            "entry/x": scan.xcoords * PIXEL_M * 1e6,
            "entry/y": scan.ycoords * PIXEL_M * 1e6,
            "entry/probe": scan.probeGuess,
        }
        held.update({key.replace("__", "/"): value for key, value in changes.items()})
        with h5py.File(tmp_path / name, "w") as file:
            for key, value in held.items():
                if value is not None:
                    file[key] = value
        return tmp_path / name

    return written


def changed(section: str, **words: Any) -> dict[str, Any]:
    held = FULL.get(section, {})
    return {**FULL, section: {**({"path": held} if isinstance(held, str) else held), **words}}


def assert_same_scan(read: RawData, scan: RawData) -> None:
    """The same positions but for one shift of all, and the same frames."""
    for axis in ("xcoords", "ycoords"):
        moved = getattr(read, axis) - getattr(scan, axis)
        np.testing.assert_allclose(moved, moved[0], atol=1e-9)
    expected = np.rint(scan.frames.stored.astype(np.float64) ** 2)
    np.testing.assert_array_equal(read.frames.stored, expected)


def test_layout_in_memory_reads_the_scan(write: Write, scan: RawData) -> None:
    read = read_scan(write(), layout=FULL)
    assert_same_scan(read, scan)
    assert read.frames.measurement == "counts"
    assert read.geometry is not None
    assert read.geometry.object_pixel_m == pytest.approx(PIXEL_M)
    assert read.xcoords.min() == pytest.approx(N // 2 + 2)
    assert read.metadata is not None
    shift = read.metadata["positions_shift_px"]
    np.testing.assert_allclose(read.xcoords - shift[0], scan.xcoords)
    np.testing.assert_array_equal(read.probeGuess, scan.probeGuess)


def test_ten_lines_of_yaml_in_the_docs_are_a_beamline(
    write: Write, scan: RawData, tmp_path: Path
) -> None:
    page = (DOCS / "howto" / "layouts.md").read_text()
    text = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert text is not None and len(text[1].splitlines()) <= 10
    (tmp_path / "my.yaml").write_text(text[1])
    path = write(
        entry__x=None,
        entry__y=None,
        entry__data=None,
        entry__detector__frames=np.rint(scan.frames.stored.astype(np.float64) ** 2).astype("u4"),
        entry__stage__position=np.stack([-scan.ycoords, scan.xcoords], 1) * PIXEL_M * 1e6,
        entry__detector__mask=np.ones((N, N), "u1"),
        entry__energy=8.0,
        entry__detector__distance=N * 75e-6 * PIXEL_M / (1.239841984e-6 / 8e3) * 1e3,
    )
    read = read_scan(path, layout=tmp_path / "my.yaml")
    assert_same_scan(read, scan)
    assert read.geometry is not None
    assert read.geometry.energy_ev == pytest.approx(8000)


@pytest.mark.parametrize(
    ("words", "stored"),
    [
        ({"x_sign": -1}, {"entry__x": -1}),
        ({"y_sign": -1}, {"entry__y": -1}),
        ({"unit": "mm"}, {"entry__x": 1e-3, "entry__y": 1e-3}),
        ({"unit": "nm"}, {"entry__x": 1e3, "entry__y": 1e3}),
        ({"unit": "px"}, {"entry__x": 1e-6 / PIXEL_M, "entry__y": 1e-6 / PIXEL_M}),
    ],
)
def test_signs_and_units_are_undone(
    write: Write, scan: RawData, words: dict[str, Any], stored: dict[str, float]
) -> None:
    microns = {"entry__x": scan.xcoords * PIXEL_M * 1e6, "entry__y": scan.ycoords * PIXEL_M * 1e6}
    path = write(**{key: microns[key] * factor for key, factor in stored.items()})
    assert_same_scan(read_scan(path, layout=changed("positions", **words)), scan)


def test_swapped_exchanges_x_and_y(write: Write, scan: RawData) -> None:
    path = write(entry__x=scan.ycoords * PIXEL_M * 1e6, entry__y=scan.xcoords * PIXEL_M * 1e6)
    assert_same_scan(read_scan(path, layout=changed("positions", swapped=True)), scan)


@pytest.mark.parametrize("wide", [False, True])
def test_columns_name_the_axes_of_one_dataset(write: Write, scan: RawData, wide: bool) -> None:
    table = np.stack([scan.ycoords, scan.xcoords, 0 * scan.xcoords], 1) * PIXEL_M * 1e6
    layout = {**FULL, "positions": {"path": "/p", "columns": ["y", "x", "z"], "unit": "um"}}
    assert_same_scan(read_scan(write(p=table.T if wide else table), layout=layout), scan)


def test_units_are_taken_from_the_attribute_where_the_layout_has_none(
    write: Write, scan: RawData
) -> None:
    layout = {**FULL, "positions": {"x": "/entry/x", "y": "/entry/y"}}
    path = write()
    with pytest.raises(OptionError, match=r"scan.h5: layout given: positions.unit is missing"):
        read_scan(path, layout=layout)
    with h5py.File(path, "r+") as file:
        file["entry/x"].attrs["units"] = "micron"
    assert_same_scan(read_scan(path, layout=layout), scan)


def test_each_dataset_has_a_unit_of_its_own(write: Write, scan: RawData) -> None:
    path = write(
        entry__x=scan.xcoords * PIXEL_M * 1e3,
        entry__y=scan.ycoords * PIXEL_M * 1e6 / 2,
        entry__width=75.0,
        entry__height=0.15,
        entry__distance=N * 75e-6 * PIXEL_M / (1.239841984e-6 / 8e3),
    )
    with h5py.File(path, "r+") as file:
        units = {"x": "mm", "y": "um", "width": "um", "height": "mm", "distance": "m"}
        for name, unit in units.items():
            file[f"entry/{name}"].attrs["units"] = unit
    layout = {
        "measurement": "counts",
        "frames": "/entry/data",
        "positions": {"x": "/entry/x", "y": "/entry/y"},
        "energy": {"value": 8, "unit": "keV"},
        "distance": "/entry/distance",
        "detector_pixel": {"path": ["/entry/height", "/entry/width"]},
        "probe": "/entry/probe",
    }
    read = read_scan(path, layout=layout)
    assert_same_scan(read, scan)
    assert read.geometry is not None
    assert read.geometry.detector_pixel_m == pytest.approx((150e-6, 75e-6))
    with h5py.File(path, "r+") as file:
        file["entry/y"].attrs["units"] = "px"
    with pytest.raises(ScanError, match="mm of x and px of y"):
        read_scan(path, layout=layout)


def test_frames_on_the_last_axis_and_zero_at_the_corner(write: Write, scan: RawData) -> None:
    counts = np.rint(scan.frames.stored.astype(np.float64) ** 2)
    stored = np.moveaxis(np.fft.ifftshift(counts, axes=(1, 2)), 0, -1)
    layout = changed("frames", axes="frames_last", corner=True)
    assert_same_scan(read_scan(write(entry__data=stored), layout=layout), scan)
    first = changed("frames", corner=True)
    path = write(entry__data=np.fft.ifftshift(counts, axes=(1, 2)))
    assert_same_scan(read_scan(path, layout=first), scan)


def test_orientation_is_the_layouts_unless_the_detector_has_one(
    write: Write, scan: RawData
) -> None:
    counts = np.rint(scan.frames.stored.astype(np.float64) ** 2)
    path = write(entry__data=counts.swapaxes(1, 2))
    layout = changed("frames", orientation="transpose")
    assert_same_scan(read_scan(path, layout=layout), scan)
    turned = Detector(orientation="rot180")
    other = read_scan(path, layout=layout, detector=turned, probe="initial")
    assert not np.array_equal(other.frames.stored, counts)


def test_datasets_of_a_pattern_are_laid_one_after_the_other(write: Write, scan: RawData) -> None:
    counts = np.rint(scan.frames.stored.astype(np.float64) ** 2)
    path = write(entry__data=None, d__data_01=counts[:15], d__data_02=counts[15:])
    assert_same_scan(read_scan(path, layout=changed("frames", path="/d/data_*")), scan)


def test_datasets_of_a_pattern_go_by_their_numbers(write: Write, scan: RawData) -> None:
    counts = np.rint(scan.frames.stored.astype(np.float64) ** 2).astype(np.uint32)
    parts = np.array_split(counts, 12)
    named = {f"entry__part_{number}": part for number, part in enumerate(parts)}
    path = write(**named)
    raw = read_scan(path, layout=changed("frames", path="/entry/part_*"))
    assert np.array_equal(raw.frames.stored, counts)


def test_the_first_path_that_is_there_is_taken(write: Write, scan: RawData) -> None:
    layout = changed("frames", path="/entry/other | /entry/data")
    assert_same_scan(read_scan(write(), layout=layout), scan)


def test_raster_axes_are_spread_row_by_row(write: Write, scan: RawData) -> None:
    path = write(entry__x=np.arange(8) * 0.1, entry__y=np.arange(5) * 0.2)
    read = read_scan(path, layout=changed("positions", raster=True))
    assert read.xcoords[1] - read.xcoords[0] == pytest.approx(0.1e-6 / PIXEL_M)
    assert read.ycoords[8] - read.ycoords[0] == pytest.approx(0.2e-6 / PIXEL_M)


def test_positions_and_frames_are_matched_by_index(
    write: Write, scan: RawData, caplog: pytest.LogCaptureFixture
) -> None:
    counts = np.rint(scan.frames.stored.astype(np.float64) ** 2)
    keep = np.array([7, 3, *range(10, M)])
    order = np.arange(M)[::-1]
    path = write(
        entry__data=counts[keep],
        entry__x=scan.xcoords[order] * PIXEL_M * 1e6,
        entry__y=scan.ycoords[order] * PIXEL_M * 1e6,
        frame_numbers=keep + 100,
        position_numbers=order + 100,
        monitor=(order + 1.0),
    )
    layout = {
        **FULL,
        "frames": {"path": "/entry/data", "index": "/frame_numbers"},
        "positions": {**FULL["positions"], "index": "/position_numbers"},
        "monitor": "/monitor",
    }
    with caplog.at_level(logging.WARNING):
        read = read_scan(path, layout=layout)
    assert "32 of 40 positions have a frame" in caplog.text
    np.testing.assert_array_equal(read.frames.stored, counts[keep])
    np.testing.assert_allclose(np.diff(read.xcoords), np.diff(scan.xcoords[keep]))
    np.testing.assert_array_equal(read.frame_photons, keep + 1.0)
    with pytest.raises(ScanError, match=r"positions is 40; expected 32, as frames\. Name an index"):
        read_scan(path, layout=FULL)
    with h5py.File(path, "r+") as file:
        file["frame_numbers"][0] = 103
    with pytest.raises(ScanError, match=r"frames.index is 32 numbers, 31 of them distinct"):
        read_scan(path, layout=layout)


def test_one_index_alone_changes_no_order(write: Write, scan: RawData) -> None:
    path = write(numbers=np.arange(1, M + 1))
    for section in ("frames", "positions"):
        layout = changed(section, index="/numbers")
        assert_same_scan(read_scan(path, layout=layout), scan)


@pytest.mark.parametrize(("bad", "value"), [("nonzero", 1), ("zero", 0)])
def test_mask_in_either_sense(write: Write, scan: RawData, bad: str, value: int) -> None:
    mask = np.full((N, N), 1 - value, "u1")
    mask[2, 5] = value
    layout = {**FULL, "mask": {"path": "/mask", "bad": bad}}
    read = read_scan(write(mask=mask), layout=layout)
    assert read.bad_pixels is not None
    assert read.bad_pixels[2, 5] and read.bad_pixels.sum() < N


@pytest.mark.parametrize("axes", ["frames_first", "frames_last"])
def test_nan_is_bad_and_a_negative_count_is_none(write: Write, scan: RawData, axes: str) -> None:
    counts = np.rint(scan.frames.stored.astype(np.float64) ** 2)
    wrong = counts.copy()
    wrong[31, 5, 6] = np.nan
    wrong[17, 8, 8] = -1
    stored = wrong if axes == "frames_first" else np.moveaxis(wrong, 0, -1)
    read = read_scan(write(entry__data=stored), layout=changed("frames", axes=axes))
    assert read.bad_pixels is not None
    assert np.argwhere(read.bad_pixels).tolist() == [[5, 6]]
    counts[:, 5, 6] = counts[17, 8, 8] = 0
    np.testing.assert_array_equal(np.rint(read.diff3d.astype(np.float64) ** 2), counts)
    assert np.isfinite(read_scan(write(), layout=FULL, probe="initial").probeGuess).all()


def test_dark_is_subtracted(write: Write, scan: RawData) -> None:
    counts = np.rint(scan.frames.stored.astype(np.float64) ** 2).astype("u4")
    path = write(entry__data=counts + 3, dark=np.full((2, N, N), 3.0))
    assert_same_scan(read_scan(path, layout={**FULL, "dark": "/dark"}), scan)


@pytest.mark.parametrize("origin", ["centre", "patch", "corner"])
def test_origin_of_the_object(write: Write, scan: RawData, origin: str) -> None:
    height, width = scan.objectGuess.shape
    away = {"centre": (width / 2, height / 2), "patch": (0, 0), "corner": (N // 2, N // 2)}[origin]
    path = write(
        entry__x=(scan.xcoords - away[0]) * PIXEL_M * 1e6,
        entry__y=(scan.ycoords - away[1]) * PIXEL_M * 1e6,
        object=scan.objectGuess[None],
    )
    layout = {**changed("positions", origin=origin), "object": "/object"}
    read = read_scan(path, layout=layout)
    np.testing.assert_allclose(read.xcoords, scan.xcoords)
    np.testing.assert_allclose(read.ycoords, scan.ycoords)
    with pytest.raises(OptionError, match=r"positions.origin is missing.*Add origin: to positions"):
        read_scan(path, layout={**FULL, "object": "/object"})


def test_positions_from_a_file_of_their_own_and_frames_from_another(
    write: Write, scan: RawData, tmp_path: Path
) -> None:
    table = np.stack([scan.ycoords, scan.xcoords], 1) * PIXEL_M * 1e6
    lines = [f"{float(y)!r}, {float(x)!r}" for y, x in table]
    (tmp_path / "scan_motors.csv").write_text("\n".join(["y,x", *lines]))
    words = {"file": "{stem}_motors.csv", "columns": ["y", "x"], "unit": "um"}
    write("frames.h5")
    path = write(entry__data=None)
    layout = {**FULL, "positions": words}
    assert_same_scan(read_scan(path, layout=layout, diffraction=tmp_path / "frames.h5"), scan)


@pytest.mark.parametrize(
    ("layout", "line"),
    [
        ({"frame": "/d"}, r"layout given: frame is no word of a layout; expected one of frames"),
        ({"frames": {"pth": "/d"}}, r"frames.pth is no word of a layout; expected one of path"),
        ({"frames": {"path": 3}}, r"frames.path is 3; expected text or a list"),
        ({"positions": {"unit": "inch"}}, r"positions.unit is 'inch'; expected one of px, m"),
        ({"positions": {"x_sign": True}}, r"positions.x_sign is True; expected one of 1, -1"),
        ({"near_field": "yes"}, r"near_field is 'yes'; expected true or false"),
        ({"energy": 8}, r"energy is 8; expected a path or a mapping"),
        (
            {"positions": "/p"},
            r"positions.columns is missing.*Add positions: \{columns: \[x, y\]\}",
        ),
        ([1], r"layout is list; expected a YAML, a preset or a mapping"),
        ("nanomx", r"layout is 'nanomx'; expected a name ending in .yaml, or one of 26id"),
    ],
)
def test_mistakes_in_a_layout_are_one_line(write: Write, layout: Any, line: str) -> None:
    path = write(p=np.zeros((M, 3)))
    with pytest.raises(PtychoTorchError, match=line) as raised:
        read_scan(path, layout={**FULL, **layout} if isinstance(layout, dict) else layout)
    assert "\n" not in str(raised.value)


def test_mistakes_in_a_yaml_name_its_file_and_line(write: Write, tmp_path: Path) -> None:
    scan, bad = write(), tmp_path / "bad.yaml"
    bad.write_text("frames: /entry/data\npositions: {x: [}\n")
    with pytest.raises(OptionError, match=r"bad.yaml: line 2 is no YAML"):
        read_scan(scan, layout=bad)
    bad.write_text("frames: /entry/data\nmask: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(OptionError, match=r"bad.yaml: line 2 is no YAML \(could not determine"):
        read_scan(scan, layout=bad)
    bad.write_text("measurement: photons\n")
    with pytest.raises(OptionError, match=r"bad.yaml: layout bad.yaml: measurement is 'photons'"):
        read_scan(scan, layout=str(bad))


def test_a_path_that_is_not_there_is_named_with_its_section(write: Write) -> None:
    with pytest.raises(ScanKeyError, match=r"scan.h5: frames /nope is missing.*Correct frames in"):
        read_scan(write(), layout=changed("frames", path="/nope"))


def test_positions_in_metres_need_a_pixel(write: Write) -> None:
    layout = {key: value for key, value in FULL.items() if key != "object_pixel"}
    with pytest.raises(OptionError, match=r"object_pixel is not known; .* Add object_pixel: \{"):
        read_scan(write(), layout=layout)


def test_hdf5_without_a_layout_says_so(write: Write) -> None:
    with pytest.raises(
        OptionError, match=r"layout is not given; .*nanomax.* --layout YAML .layout=."
    ):
        read_scan(write(), format="hdf5")


def test_presets_are_layouts() -> None:
    assert set(preset_names()) == {"nanomax", "csaxs", "i08", "26id", "hxn", "lcls"}
    for name in preset_names():
        assert layout_of(name)["frames"]


def test_preset_is_changed_by_the_words_beside_it(write: Write, scan: RawData) -> None:
    counts = np.rint(scan.frames.stored.astype(np.float64) ** 2)
    path = write(
        entry__data=None, entry__data__data=counts, entry__x=scan.xcoords, entry__y=scan.ycoords
    )
    words = {"x": "/entry/x", "y": "/entry/y", "unit": "px"}
    layout = {"preset": "26id", "positions": words, "probe": "/entry/probe"}
    assert_same_scan(read_scan(path, layout=layout), scan)


def test_hxn_preset_reads_amplitudes_from_the_corner(write: Write, scan: RawData) -> None:
    amplitude = scan.frames.stored
    path = write(
        diffamp=np.fft.ifftshift(amplitude, axes=(1, 2)).swapaxes(1, 2),
        points=np.stack([scan.xcoords, scan.ycoords]) * PIXEL_M * 1e6,
        lambda_nm=0.1,
        z_m=N * 75e-6 * PIXEL_M / 0.1e-9,
        ccd_pixel_um=75.0,
    )
    read = read_scan(path, layout={"preset": "hxn", "probe": "/entry/probe"})
    np.testing.assert_array_equal(read.frames.stored, amplitude)
    np.testing.assert_allclose(np.diff(read.xcoords), np.diff(scan.xcoords), atol=1e-9)


def test_nexus_preset_takes_the_photons_energy(write: Write, scan: RawData) -> None:
    counts = np.rint(scan.frames.stored.astype(np.float64) ** 2)
    metres = np.stack([scan.xcoords, scan.ycoords, 0 * scan.xcoords], 1) * PIXEL_M
    path = write(
        entry_1__data_1__data=counts.reshape(5, 8, N, N),
        entry_1__instrument_1__detector_1__translation=metres,
        entry_1__instrument_1__detector_1__x_pixel_size=0.075,
        entry_1__instrument_1__detector_1__y_pixel_size=0.075,
        entry_1__instrument_1__detector_1__distance=N * 75e-6 * PIXEL_M / (1.239841984e-6 / 8e3),
        entry_1__instrument_1__beam_1__energy=8.0,
        entry_1__instrument_1__source_1__energy=3.0,
    )
    units = {"translation": "m", "x_pixel_size": "mm", "y_pixel_size": "mm", "distance": "m"}
    with h5py.File(path, "r+") as file:
        for name, unit in units.items():
            file[f"entry_1/instrument_1/detector_1/{name}"].attrs["units"] = unit
        file["entry_1/instrument_1/beam_1/energy"].attrs["units"] = "keV"
    read = read_scan(path, layout={"preset": "i08", "probe": "/entry/probe"})
    assert_same_scan(read, scan)
    assert read.geometry is not None
    assert read.geometry.energy_ev == pytest.approx(8000)


def formats() -> Path:
    """Files that other packages wrote of one simulated scan, and the truth."""
    folder = Path(os.environ.get("PTYCHO_TORCH_DATA", "nowhere")) / "data" / "formats"
    if not folder.is_dir():
        pytest.skip("PTYCHO_TORCH_DATA names no folder with files of other packages")
    return folder


PTYCHODUS: dict[str, Any] = {
    "measurement": "counts",
    "frames": {"path": "/patterns", "index": "/indexes"},
    "positions": {
        "x": "/probe_position_x_m",
        "y": "/probe_position_y_m",
        "unit": "m",
        "origin": "centre",
        "index": "/probe_position_indexes",
    },
    "energy": {"value": 8, "unit": "keV"},
    "object_pixel": {"value": 8, "unit": "nm"},
    "mask": "/bad_pixels",
    "probe": "/probe",
    "object": "/object",
}


def test_files_of_ptychodus_come_to_the_truth(caplog: pytest.LogCaptureFixture) -> None:
    folder = formats()
    truth = np.load(folder / "truth.npz")
    with h5py.File(folder / "ptychodus170" / "diffraction.h5") as file:
        index, patterns, bad = (file[name][()] for name in ("indexes", "patterns", "bad_pixels"))
    product = folder / "ptychodus170" / "product.h5"
    read = read_scan(
        product, layout=PTYCHODUS, diffraction=product.with_name("diffraction.h5"), sidecar="off"
    )
    assert "293 of 300 positions have a frame" in caplog.text
    np.testing.assert_allclose(read.xcoords, truth["xcoords"][index], atol=1e-9)
    np.testing.assert_allclose(read.ycoords, truth["ycoords"][index], atol=1e-9)
    np.testing.assert_array_equal(read.bad_pixels, bad)
    np.testing.assert_array_equal(read.frames.stored[:, ~bad], patterns[:, ~bad])
    np.testing.assert_allclose(read.objectGuess, truth["objectGuess"], atol=1e-6)


def test_cxi_of_cdtools_comes_to_the_truth() -> None:
    folder = formats()
    truth = np.load(folder / "truth.npz")
    detector = "/entry_1/instrument_1/detector_1"
    layout = {
        "measurement": "counts",
        "frames": f"{detector}/data",
        "positions": {
            "path": "/entry_1/sample_1/geometry_1/translation",
            "columns": ["x", "y", "z"],
            "unit": "m",
        },
        "energy": {"path": "/entry_1/instrument_1/source_1/energy", "unit": "J"},
        "distance": {"path": f"{detector}/distance", "unit": "m"},
        "detector_pixel": {"path": f"{detector}/x_pixel_size", "unit": "m"},
        "mask": f"{detector}/mask",
        "dark": f"{detector}/data_dark",
    }
    path = folder / "cdtools032" / "default_basis.cxi"
    read = read_scan(path, layout=layout, probe="initial", sidecar="off")
    for axis in ("xcoords", "ycoords"):
        moved = getattr(read, axis) - truth[axis]
        np.testing.assert_allclose(moved, moved.mean(), atol=1e-4)
    assert read.geometry is not None
    assert read.geometry.energy_ev == pytest.approx(8000, rel=1e-5)
    assert read.bad_pixels is not None and read.bad_pixels.sum() == 1


@pytest.mark.parametrize("unit", ["px", "um"])
@pytest.mark.parametrize("origin", ["patch", "corner", "centre"])
@pytest.mark.parametrize(("options", "scale"), [({"size": 12}, 0.75), ({"bin": 2}, 1.0)])
def test_positions_follow_the_pixels_that_a_detector_makes(
    write: Write, scan: RawData, unit: str, origin: str, options: dict[str, int], scale: float
) -> None:
    assert scan.objectGuess is not None
    height, width = scan.objectGuess.shape
    first = {"patch": (0, 0), "corner": (N // 2, N // 2), "centre": (width / 2, height / 2)}[origin]
    factor = PIXEL_M * 1e6 if unit == "um" else 1.0
    path = write(
        entry__x=(scan.xcoords - first[0]) * factor,
        entry__y=(scan.ycoords - first[1]) * factor,
        entry__object=scan.objectGuess,
    )
    layout = {**changed("positions", unit=unit, origin=origin), "object": "/entry/object"}
    assert read_scan(path, layout=layout).xcoords == pytest.approx(scan.xcoords)
    read = read_scan(path, layout=layout, detector=Detector(**options), probe="initial")
    assert read.xcoords == pytest.approx(scan.xcoords * scale)
    assert read.ycoords == pytest.approx(scan.ycoords * scale)
    assert (read.objectGuess is None) == (scale != 1)


def test_a_lone_index_out_of_order_is_refused(write: Write) -> None:
    path = write(numbers=np.r_[1, 0, 2:M])
    for section in ("frames", "positions"):
        with pytest.raises(ScanError, match="do not rise; expected an index of both"):
            read_scan(path, layout=changed(section, index="/numbers"))


def test_a_mask_and_a_dark_of_ones_own_move_with_the_zero_frequency(
    write: Write, scan: RawData
) -> None:
    counts = np.rint(scan.frames.stored.astype(np.float64) ** 2).astype("u4")
    mask, dark = np.zeros((N, N), bool), np.arange(N * N).reshape(N, N) % 3
    mask[1, 2] = True
    path = write(entry__data=np.fft.ifftshift(counts, axes=(1, 2)) + dark, mask=mask.view("u1"))
    layout = changed("frames", corner=True)
    own = read_scan(path, layout=layout, detector=Detector(dark=dark), bad_pixels=mask)
    assert own.bad_pixels is not None and own.bad_pixels[1 + N // 2, 2 + N // 2]
    counts[:, own.bad_pixels] = 0  # and what is dark in every frame
    np.testing.assert_array_equal(np.rint(np.asarray(own.diff3d, float) ** 2), counts)
    of_file = read_scan(path, layout={**layout, "mask": "/mask"}, detector=Detector(dark=dark))
    np.testing.assert_array_equal(own.bad_pixels, of_file.bad_pixels)


@pytest.mark.parametrize("unit", ["um", "nm"])
def test_positions_with_a_unit_get_no_second_one(write: Write, unit: str) -> None:
    with pytest.raises(OptionError, match=r"position_unit.*says its own unit"):
        read_scan(write(), layout=FULL, corrections=Corrections(position_unit=unit))


def test_two_masks_are_refused(write: Write) -> None:
    mask = np.eye(N, dtype=bool)
    with pytest.raises(OptionError, match="bad_pixels is given beside that of the detector"):
        read_scan(write(), layout=FULL, bad_pixels=mask, detector=Detector(bad_pixels=mask.T))


def test_positions_that_were_never_written_are_counted_aloud(
    write: Write, scan: RawData, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(entry__x=None)
    with h5py.File(path, "a") as file:
        x = file.create_dataset("entry/x", (M,), "f8", chunks=(M // 2,))
        x[: M // 2] = scan.xcoords[: M // 2] * PIXEL_M * 1e6
    read_scan(path, layout=FULL)
    assert f"/entry/x: {M // 2 * 8} bytes never written" in caplog.text
