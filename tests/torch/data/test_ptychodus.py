"""Files of Ptychodus and pty-chi: read back alike, matched by index, refused in one line."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho_torch import read_scan, write_product
from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import OptionError, PtychoTorchError, ScanError, ScanFileError
from ptycho_torch.data.geometry import Geometry
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.data.readers import Reader
from ptycho_torch.data.readers.conformance import ReaderConformance, example_scan
from ptycho_torch.data.readers.registry import BUILT_IN
from ptycho_torch.data.scan import Scan

h5py = pytest.importorskip(
    "h5py", reason="h5py is not installed: pip install ptycho-torch[formats]"
)
import ptychodus_files as files  # noqa: E402

BY_NAME = {reader.name: reader for reader in BUILT_IN}
EVERYTHING = ("probeGuess", "objectGuess", "bad_pixels", "geometry", "frame_photons")
FORMATS = Path(os.environ.get("PTYCHO_TORCH_DATA", "nowhere")) / "data" / "formats"
FROM_PTYCHODUS = ("product.h5", "diffraction.h5", "ptychopinn_training.npz")


class OfPtychodus(ReaderConformance):
    reader = BY_NAME["ptychodus"]
    carries = EVERYTHING


class TestProductHdf5(OfPtychodus):
    def write(self, folder: Path, scan: Scan, *, poor: bool) -> Path:
        files.write_diffraction_h5(folder / "diffraction.h5", scan, poor=poor)
        return files.write_product_h5(folder / "product.h5", scan, poor=poor)


class TestOpenedByItsFrames(OfPtychodus):
    def write(self, folder: Path, scan: Scan, *, poor: bool) -> Path:
        files.write_product_h5(folder / "a_product.h5", scan, poor=poor)
        return files.write_diffraction_h5(folder / "a_diffraction.h5", scan, poor=poor)


class TestProductNpz(OfPtychodus):
    carries = ("probeGuess", "objectGuess", "bad_pixels", "frame_photons")

    def write(self, folder: Path, scan: Scan, *, poor: bool) -> Path:
        files.write_diffraction_npz(folder / "a_diffraction.npz", scan, poor=poor)
        return files.write_product_npz(folder / "a_product.npz", scan, poor=poor)


class TestProductCxi(OfPtychodus):
    def write(self, folder: Path, scan: Scan, *, poor: bool) -> Path:
        files.write_diffraction_h5(folder / "diffraction.h5", scan, poor=poor)
        return files.write_product_cxi(folder / "product.cxi", scan, poor=poor)


class TestBareFrames(OfPtychodus):
    carries = ("probeGuess", "objectGuess", "frame_photons")

    def write(self, folder: Path, scan: Scan, *, poor: bool) -> Path:
        files.write_product_h5(folder / "product.h5", scan, poor=poor)
        return files.write_diffraction_npy(folder / "diffraction.npy", scan, poor=poor)


class TestOlderDialect(OfPtychodus):
    carries = ("probeGuess", "objectGuess")

    def write(self, folder: Path, scan: Scan, *, poor: bool) -> Path:
        files.write_diffraction_h5(folder / "diffraction.h5", scan, poor=True)
        return files.write_older_product(folder / "product.h5", scan)


class TestTrainingHdf5(OfPtychodus):
    carries = ("probeGuess", "objectGuess", "bad_pixels")

    def write(self, folder: Path, scan: Scan, *, poor: bool) -> Path:
        return files.write_training_h5(folder / "training_data.h5", scan)


class TestTrainingNpz(ReaderConformance):
    reader = BY_NAME["npz"]
    carries = ("objectGuess", "bad_pixels")

    def write(self, folder: Path, scan: Scan, *, poor: bool) -> Path:
        return files.write_training_npz(folder / "ptychopinn_training.npz", scan)


class TestPair(OfPtychodus):
    carries = ("probeGuess", "objectGuess")

    def write(self, folder: Path, scan: Scan, *, poor: bool) -> Path:
        return files.write_pair(folder, scan, poor=poor)


class TestCanonicalNpz(ReaderConformance):
    reader = BY_NAME["npz"]
    carries = EVERYTHING

    def write(self, folder: Path, scan: Scan, *, poor: bool) -> Path:
        path = RawData.sharing(scan).to_file(folder / "scan.npz")
        if poor:
            with np.load(path) as archive:
                keys = ("xcoords", "ycoords", "diff3d", "probeGuess")
                kept = {key: archive[key] for key in keys}
            np.savez(path, **kept)
        return path


class TestTike(ReaderConformance):
    reader = BY_NAME["tike"]
    carries = ()

    def read(self, path: Path, **options: Any) -> Scan:
        options.pop("measurement", None)
        return read_scan(path, format=self.reader, **options)

    def write(self, folder: Path, scan: Scan, *, poor: bool) -> Path:
        corners = np.stack([scan.ycoords, scan.xcoords], axis=1)[None] - scan.N / 2
        data = np.fft.ifftshift(files.counts_of(scan), axes=(1, 2))[None]
        path = folder / "scan.npz"
        np.savez(path, data=data, scan=corners, probe=scan.probeGuess[None, None, None])
        return path


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    files.write_diffraction_h5(tmp_path / "diffraction.h5", example_scan())
    return files.write_product_h5(tmp_path / "product.h5", example_scan())


def change(path: Path, **arrays: Any) -> None:
    """Replace datasets; None leaves one out."""
    with h5py.File(path, "r+") as file:
        for name, array in arrays.items():
            attributes = dict(file[name].attrs) if name in file else {}
            if name in file:
                del file[name]
            if array is not None:
                file[name] = array
                file[name].attrs.update(attributes)


def refusal(path: Path, error: type[PtychoTorchError] = ScanError, **options: Any) -> str:
    with pytest.raises(error) as caught:
        read_scan(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_frames_and_positions_are_matched_by_index_and_counted_aloud(pair, caplog):
    truth = example_scan()
    change(pair.with_name("diffraction.h5"), indexes=np.arange(len(truth))[::-1] + 9)
    with caplog.at_level(logging.INFO):
        scan = read_scan(pair, sidecar="off")
    # Frame f has the index 32 - f, position p the index p + 7: they meet where p = 25 - f.
    expected = 25 - np.arange(len(truth))
    keep = expected < len(truth)
    assert np.array_equal(scan.scan_index, expected[keep] + 7)
    assert np.allclose(scan.xcoords, truth.xcoords[expected[keep]], rtol=0, atol=1e-9)
    stored = files.counts_of(truth)[keep]
    assert np.array_equal(np.rint(scan.diff3d**2), stored)
    assert np.allclose(scan.frame_photons, truth.frame_photons[expected[keep]])
    lines = [record.getMessage() for record in caplog.records if "have a frame" in record.message]
    assert len(lines) == 1 and "22 of 24 positions have a frame; 2 frames without" in lines[0]


def test_positions_of_one_index_are_averaged(pair, caplog):
    truth = example_scan()
    indexes = np.arange(len(truth)) + 7
    indexes[1] = indexes[0]
    change(pair, probe_position_indexes=indexes)
    scan = read_scan(pair, sidecar="off")
    assert np.isclose(scan.xcoords[0], truth.xcoords[:2].mean(), rtol=0, atol=1e-9)
    assert len(scan) == len(truth) - 1 and 8 not in scan.scan_index
    assert "1 positions that share an index are averaged" in caplog.text


def test_frames_of_one_index_are_refused(pair):
    indexes = np.arange(24) + 7
    indexes[1] = indexes[0]
    change(pair.with_name("diffraction.h5"), indexes=indexes)
    assert "frame indexes is 7 for 2 frames" in refusal(pair)


def test_frames_without_indexes_need_as_many_positions(pair):
    frames = files.counts_of(example_scan())[:20]
    change(pair.with_name("diffraction.h5"), indexes=None, patterns=frames)
    assert "20 for 24 positions" in refusal(pair)


def test_frames_with_no_index_in_common_are_refused(pair):
    change(pair.with_name("diffraction.h5"), indexes=np.arange(24) + 900)
    line = refusal(pair)
    assert "900 to 923, those of the positions 7 to 30" in line


def test_missing_half_is_named_with_what_to_type(pair, tmp_path):
    frames = pair.with_name("diffraction.h5")
    moved = frames.rename(tmp_path / "elsewhere.h5")
    line = refusal(pair)
    assert "frames is missing" in line
    assert "Type read_scan('product.h5', diffraction='diffraction.h5')" in line
    assert "--diffraction FILE" in line
    assert len(read_scan(pair, diffraction=moved, sidecar="off")) == 24
    line = refusal(moved)
    assert "positions is missing" in line and "diffraction='elsewhere.h5'" in line


def test_two_files_that_pair_are_refused_by_name(pair):
    np.save(pair.with_name("diffraction.npy"), files.counts_of(example_scan()))
    assert "2 files beside it (diffraction.h5, diffraction.npy)" in refusal(pair)


@pytest.mark.parametrize("corner", [False, True])
def test_origin_of_a_pair_is_where_all_patches_fit(tmp_path, corner):
    truth = example_scan()
    path = files.write_pair(tmp_path, truth, poor=True)
    arrays, _ = files.product_of(truth, poor=True, corner=corner)
    change(path, **{name: arrays[name] for name in ("probe_position_x_m", "probe_position_y_m")})
    scan = read_scan(path)
    assert np.allclose(scan.xcoords, truth.xcoords, rtol=0, atol=1e-9)
    other = read_scan(path, origin="centre" if corner else "corner")
    assert np.ptp(other.xcoords - truth.xcoords) < 1e-9 < abs(other.xcoords - truth.xcoords)[0]


def test_origin_that_nothing_tells_is_refused(tmp_path):
    path = files.write_pair(tmp_path, example_scan(), poor=True)
    change(path, probe_position_x_m=np.linspace(0, 1e-3, 24))
    assert "--option origin=corner (origin='centre')" in refusal(path)
    assert len(read_scan(path, origin="corner")) == 24


def test_near_field_is_kept(pair):
    with h5py.File(pair, "r+") as file:
        file.attrs["far_field"] = False
    assert read_scan(pair).geometry.near_field


def test_first_relaxation_mode_and_the_product_of_layers_are_taken(pair, caplog):
    probe = np.random.default_rng(0).random((3, 2, 16, 16)) + 0j
    layers = np.exp(1j * np.random.default_rng(1).random((2, 44, 37)))
    change(pair, probe=probe, object=layers)
    with caplog.at_level(logging.INFO):
        scan = read_scan(pair)
    assert np.array_equal(scan.probeGuess, probe[0])
    assert np.allclose(scan.objectGuess, layers[0] * layers[1])
    assert "first of 3" in caplog.text and "2 layers" in caplog.text


def test_cropped_detector_changes_the_pixel_and_leaves_probe_and_object_out(pair, caplog):
    truth = example_scan()
    scan = read_scan(pair, detector=Detector(size=8), probe="initial", sidecar="off")
    assert np.isclose(scan.geometry.object_pixel_m, 2 * truth.geometry.object_pixel_m)
    steps, expected = np.diff(scan.xcoords), np.diff(truth.xcoords) / 2
    assert np.allclose(steps, expected, atol=1e-9) and scan.objectGuess is None
    assert "the probe is left out" in caplog.text and "the object is left out" in caplog.text
    assert scan.bad_pixels.sum() == 1


def test_detector_pixel_that_contradicts_the_object_is_left_out(pair, caplog):
    with h5py.File(pair.with_name("diffraction.h5"), "r+") as file:
        file["patterns"].attrs["detector_pixel_width_m"] = 5e-5
    scan = read_scan(pair)
    assert scan.geometry.detector_pixel_m is None
    assert "the detector's pixel is left out" in caplog.text


def test_photons_that_are_not_known_are_left_out(pair, caplog):
    change(pair, probe_photon_counts=np.zeros(24))
    assert read_scan(pair).frame_photons is None
    assert "probe_photon_counts are left out" in caplog.text


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("probe_position_x_m", np.zeros(5)),
        ("probe_position_x_m", np.full(24, np.nan)),
        ("probe_position_x_m", np.array([b"a"] * 24)),
        ("probe_position_indexes", np.zeros(24)),
        ("probe_position_indexes", np.zeros((2, 12), int)),
        ("probe_photon_counts", np.zeros((2, 2))),
        ("probe", np.zeros((1, 1, 1, 16, 16), complex)),
        ("probe", np.arange(4)),
        ("object", np.zeros((0, 4, 4), complex)),
        ("object", np.array(["x"], dtype=h5py.string_dtype())),
    ],
)
def test_arrays_that_are_no_such_are_refused(pair, name, array):
    change(pair, **{name: array})
    refusal(pair, PtychoTorchError)


@pytest.mark.parametrize(
    ("half", "name", "array"),
    [
        ("diffraction", "patterns", np.zeros((24, 16, 16), complex)),
        ("diffraction", "patterns", np.zeros((24, 16, 9), np.uint16)),
        ("diffraction", "bad_pixels", np.array("bad")),
        ("diffraction", "bad_pixels", np.zeros((3, 3), bool)),
        ("diffraction", "indexes", np.zeros(24, complex)),
        ("product", "probe_photon_counts", np.ones(5)),
        ("product", "photon_energy_eV", np.array("eight")),
        ("product", "object_pixel_width_m", np.array(1j)),
        ("product", "probe", np.zeros((2, 16, 16), bool)),
    ],
)
def test_arrays_of_an_npz_that_are_no_such_are_refused(tmp_path, half, name, array):
    files.write_diffraction_npz(tmp_path / "diffraction.npz", example_scan())
    product = files.write_product_npz(tmp_path / "product.npz", example_scan())
    path = tmp_path / f"{half}.npz"
    with np.load(path) as archive:
        arrays = {**archive, name: array}
    np.savez(path, **arrays)
    refusal(product, PtychoTorchError)


def test_notes_that_are_no_such_are_left_out(pair):
    with h5py.File(pair, "r+") as file:
        file.attrs["exposure_time_s"] = np.nan
        file.attrs["comments"] = np.zeros((2, 2))
        file["name"] = np.array([b"a", b"b"])
    assert not {"exposure_time_s", "comments"} & set(read_scan(pair).metadata)


@pytest.mark.parametrize("value", [np.zeros(3), "eight", -1.0, np.inf])
def test_energy_that_is_no_number_above_0_is_refused(pair, value):
    with h5py.File(pair, "r+") as file:
        file.attrs["photon_energy_eV"] = value
    refusal(pair, PtychoTorchError)


def test_folder_under_a_name_of_the_product_is_refused(pair):
    with h5py.File(pair, "r+") as file:
        del file["probe_position_x_m"]
        file.create_group("probe_position_x_m/deeper")
    refusal(pair, PtychoTorchError)


def test_file_of_neither_half_is_refused(tmp_path):
    with h5py.File(tmp_path / "product.h5", "w") as file:
        file["something"] = np.zeros(3)
    refusal(tmp_path / "product.h5", PtychoTorchError)


def test_reader_may_be_passed_unregistered(pair):
    calls = []

    def read(file: Any, *, sidecar: str = "auto") -> Scan:
        calls.append(file.path)
        return example_scan()

    mine = Reader("mine", (".mine",), lambda file: True, read)
    assert len(read_scan(pair, format=mine)) == 24 and calls == [pair]


# -- writing -------------------------------------------------------------------------------------


def test_product_that_is_written_is_read_back(pair, tmp_path):
    scan = read_scan(pair)
    obj, probe = scan.objectGuess * 1j, np.stack([scan.probeGuess, scan.probeGuess / 4])
    (tmp_path / "out").mkdir()
    path = write_product(tmp_path / "out" / "product.h5", scan, obj, probe, losses=np.ones(3))
    found = read_scan(path, diffraction=pair.with_name("diffraction.h5"))
    assert np.allclose(found.xcoords, scan.xcoords, rtol=0, atol=1e-9)
    assert np.allclose(found.ycoords, scan.ycoords, rtol=0, atol=1e-9)
    assert np.array_equal(found.scan_index, scan.scan_index)
    assert np.array_equal(found.objectGuess, obj) and np.array_equal(found.probeGuess, probe)
    assert np.array_equal(found.frame_photons, scan.frame_photons)
    assert found.metadata["name"] == "sample" and found.metadata["exposure_time_s"] == 0.1
    assert found.geometry.energy_ev == pytest.approx(8000.0)


def test_product_needs_a_geometry(tmp_path):
    scan = Scan.sharing(example_scan(), geometry=Geometry(distance_m=1.0))
    with pytest.raises(OptionError, match="geometry is without wavelength_m, object_pixel_m"):
        write_product(tmp_path / "p.h5", scan, scan.objectGuess, scan.probeGuess)
    with pytest.raises(ScanError, match="obj is "):
        write_product(tmp_path / "p.h5", example_scan(), scan.probeGuess.real, scan.probeGuess)
    assert not list(tmp_path.iterdir())


def test_product_replaces_no_file_unasked(tmp_path):
    scan = example_scan()
    (path := tmp_path / "product.h5").write_text("precious")
    with pytest.raises(ScanFileError, match="there by now"):
        write_product(path, scan, scan.objectGuess, scan.probeGuess, replace=False)
    assert path.read_text() == "precious"


@pytest.mark.skipif(not FORMATS.exists(), reason="PTYCHO_TORCH_DATA has no data/formats")
def test_product_has_the_names_dtypes_and_attributes_of_ptychodus(tmp_path):
    theirs = FORMATS / "ptychodus170" / "product.h5"
    scan = read_scan(theirs)
    ours = write_product(tmp_path / "p.h5", scan, scan.objectGuess, scan.probeGuess)
    with h5py.File(ours) as a, h5py.File(theirs) as b:
        assert set(a) == set(b) and set(a.attrs) == set(b.attrs)
        for name in a:
            assert (a[name].dtype, a[name].ndim) == (b[name].dtype, b[name].ndim), name
            assert set(a[name].attrs) == set(b[name].attrs), name


# -- files that Ptychodus 1.7 wrote of a known simulation ----------------------------------------


@pytest.mark.skipif(not FORMATS.exists(), reason="PTYCHO_TORCH_DATA has no data/formats")
@pytest.mark.parametrize("name", FROM_PTYCHODUS)
def test_files_of_ptychodus_are_the_scan_they_were_made_of(name):
    truth = read_scan(FORMATS / "truth.npz")
    scan = read_scan(FORMATS / "ptychodus170" / name, sidecar="off")
    training = name.startswith("ptychopinn")
    assert len(scan) == (300 if training else 293)
    numbers = np.arange(300) if training else scan.scan_index
    counts = np.rint(truth.diff3d[numbers].astype(np.float64) ** 2)
    good = ~scan.bad_pixels
    assert scan.bad_pixels.sum() == 5
    assert np.array_equal(scan.frames.stored[:, good], counts[:, good])
    for axis in ("xcoords", "ycoords"):
        off = getattr(scan, axis) - getattr(truth, axis)[numbers]
        assert np.abs(off).max() <= 1e-9
    assert np.array_equal(np.squeeze(scan.probeGuess), truth.probeGuess)
    assert np.array_equal(scan.objectGuess, truth.objectGuess)
    if not training:
        expected = Geometry.from_energy(
            8000.0, distance_m=0.2477735098217161, detector_pixel_m=75e-6, object_pixel_m=8e-9
        )
        assert scan.geometry == expected
        with h5py.File(FORMATS / "ptychodus170" / "diffraction.h5") as file:
            assert np.array_equal(scan.bad_pixels, file["bad_pixels"][()])


def test_readers_that_are_built_in_have_options_by_keyword_only():
    import inspect

    for reader in BUILT_IN:
        parameters = list(inspect.signature(reader.read).parameters.values())[1:]
        assert all(p.kind is p.KEYWORD_ONLY for p in parameters), reader.name
        assert re.fullmatch("[a-z_0-9]+", reader.name)
