"""A scan is valid once it is built, and stays so."""

from __future__ import annotations

import copy
import inspect
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho_torch import RawData, read_scan
from ptycho_torch.data.errors import (
    FrozenScanError,
    OptionError,
    OptionTypeError,
    PtychoTorchError,
    ScanError,
)
from ptycho_torch.data.scan import Scan

M, N = 6, 8
ARRAYS = ("xcoords", "ycoords", "xcoords_start", "ycoords_start", "probeGuess", "scan_index")


def fields(**changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    arrays: dict[str, Any] = {
        "xcoords": rng.random(M) * 20,
        "ycoords": rng.random(M) * 20,
        "xcoords_start": rng.random(M) * 20,
        "ycoords_start": rng.random(M) * 20,
        "diff3d": rng.random((M, N, N), np.float32),
        "probeGuess": (rng.random((N, N)) + 1j).astype(np.complex64),
        "scan_index": np.arange(M),
        "objectGuess": (rng.random((40, 40)) + 1j).astype(np.complex64),
    }
    return {**arrays, **changes}


def raw_data(**changes: Any) -> RawData:
    return RawData(**fields(**changes))


@pytest.mark.parametrize("name", [*ARRAYS, "objectGuess", "frames", "metadata", "new_name", "N"])
def test_no_attribute_can_be_set_or_deleted(name: str) -> None:
    scan = raw_data()
    with pytest.raises(
        FrozenScanError,
        match=rf"RawData\.{name} is an attribute of a scan that is built.*Build another",
    ):
        setattr(scan, name, np.full(3, np.nan))
    with pytest.raises(AttributeError):
        delattr(scan, name)
    assert len(scan) == M and isinstance(FrozenScanError("line"), PtychoTorchError)


@pytest.mark.parametrize("name", [*ARRAYS, "objectGuess", "diff3d"])
def test_no_array_can_be_written_to(name: str) -> None:
    scan = raw_data()
    with pytest.raises(ValueError, match="read-only"):
        getattr(scan, name)[0] = 0


@pytest.mark.parametrize("name", [*ARRAYS, "objectGuess"])
def test_an_array_that_its_owner_alters_later_does_not_alter_the_scan(name: str) -> None:
    arrays = fields()
    before = arrays[name].copy()
    scan = RawData(**arrays)
    arrays[name][...] = -1
    assert np.array_equal(getattr(scan, name), before)


@pytest.mark.parametrize("name", [*ARRAYS, "objectGuess"])
def test_no_array_can_be_made_writable_again(name: str) -> None:
    with pytest.raises(ValueError, match="cannot set WRITEABLE flag"):
        getattr(raw_data(), name).flags.writeable = True


@pytest.mark.parametrize("part", [False, True])
def test_frames_and_patches_cannot_be_written_to(part: bool) -> None:
    patches = np.ones((M, N, N), np.complex64)
    scan = raw_data(Y=patches)
    scan = scan.choose(np.array([0, 2])) if part else scan
    assert scan.Y is not None and scan.patches is not None
    for array in (scan.Y, scan.diff3d, scan.frames.stored, scan.patches.stored):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    assert patches.flags.writeable, "the caller keeps the right to its own array"


def test_choosing_takes_masks_and_refuses_nothing_at_all() -> None:
    scan = raw_data()
    masked = scan.choose(np.array([True, False] * 3))
    assert masked.chosen is not None and masked.chosen.tolist() == [0, 2, 4]
    assert scan.choose(np.array([-1])).chosen.tolist() == [M - 1]  # type: ignore[union-attr]
    with pytest.raises(OptionError, match="frames to keep is none; expected at least one"):
        scan.choose(np.array([], int))


def test_a_written_scan_says_where_its_frames_lie_now(tmp_path: Path) -> None:
    scan = raw_data(metadata={"axis_order": "frames_last"})
    assert read_scan(scan.to_file(tmp_path / "scan.npz")).frames.shape == (M, N, N)


def test_arrays_of_a_scan_from_a_file_cannot_be_written_to_either(tmp_path: Path) -> None:
    scan = read_scan(raw_data().to_file(tmp_path / "scan.npz"))
    for name in (*ARRAYS, "objectGuess", "diff3d"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(scan, name)[0] = 0


def sent(scan: RawData) -> RawData:
    twin: RawData = pickle.loads(pickle.dumps(scan))  # noqa: S301
    return twin


@pytest.mark.parametrize("make", [copy.deepcopy, sent])
def test_a_copy_in_another_process_stays_as_it_is_too(make: Any) -> None:
    scan = raw_data(xcoords_start=fields()["xcoords"], ycoords_start=fields()["ycoords"])
    twin = make(scan)
    assert twin.xcoords_start is twin.xcoords
    for name in (*ARRAYS, "objectGuess"):
        assert np.array_equal(getattr(twin, name), getattr(scan, name))
        assert not getattr(twin, name).flags.writeable
    with pytest.raises(FrozenScanError):
        twin.xcoords = twin.ycoords


def test_part_of_a_scan_stays_as_it_is_and_shares_the_frames() -> None:
    scan = raw_data()
    part = scan.subsample(4, seed=1)
    assert part.frames is scan.frames and part.chosen is not None
    assert np.array_equal(part.xcoords, scan.xcoords[part.chosen])
    assert np.array_equal(part.diff3d, scan.diff3d[part.chosen])
    for name in (*ARRAYS, "chosen"):
        assert not getattr(part, name).flags.writeable
    again = part.choose(np.array([2, 0]))
    assert np.array_equal(again.chosen, part.chosen[[2, 0]])


def test_start_positions_equal_to_the_measured_ones_are_one_array() -> None:
    measured = fields()["xcoords"]
    assert (scan := raw_data(xcoords_start=measured.copy())).xcoords_start is scan.xcoords
    other = raw_data(xcoords_start=measured.astype(np.float32))
    assert other.xcoords_start.dtype == np.float32


def test_sample_indices_are_a_label_that_indexes_nothing() -> None:
    scan = raw_data()
    assert scan.sample_indices is None
    scan.sample_indices = np.arange(100, 100 + M)
    grouped = scan.generate_grouped_data(N, K=4, nsamples=M, seed=0, gridsize=1)
    assert np.array_equal(grouped["sample_indices"], np.arange(100, 100 + M))
    assert np.array_equal(
        grouped["diffraction"][:, :, :, 0], scan.diff3d[grouped["nn_indices"][:, 0]]
    )
    assert np.array_equal(scan.choose(np.array([1, 3])).sample_indices, [101, 103])
    scan.sample_indices = None
    assert scan.sample_indices is None


@pytest.mark.parametrize("label", [np.arange(M + 1), np.zeros(M), np.zeros((M, 1), int), "all"])
def test_a_label_of_another_length_or_type_is_refused(label: Any) -> None:
    with pytest.raises(ScanError, match=r"sample_indices is .*; expected \(6,\) integer"):
        raw_data().sample_indices = label


def test_raw_data_has_the_signature_of_the_reference() -> None:
    parameters = inspect.signature(RawData).parameters
    names = "xcoords ycoords xcoords_start ycoords_start diff3d probeGuess scan_index "
    assert (
        list(parameters)
        == (names + "objectGuess Y norm_Y_I metadata bad_pixels geometry frame_photons").split()
    )
    assert parameters["scan_index"].default is None
    assert not raw_data(scan_index=None).scan_index.any()
    with pytest.raises(TypeError, match=r"RawData\.__init__\(\) missing .*'probeGuess'"):
        RawData(*list(fields().values())[:5])  # type: ignore[call-arg]
    with pytest.raises(OptionTypeError, match=r"xcoords_start is None.*from_coords_without_pc"):
        raw_data(xcoords_start=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"xcoords": np.full(M, np.nan)}, r"xcoords\[0\] is nan; expected a finite number"),
        ({"ycoords": np.zeros(M - 1)}, "ycoords axis 0 is 5; expected M = 6"),
        ({"ycoords": np.zeros(0)}, "ycoords axis 0 is 0; expected M = 6"),
        ({"xcoords": np.zeros(M, np.longdouble)}, "xcoords dtype is .*; expected double precision"),
        ({"probeGuess": np.zeros((0, N, N), complex)}, "probeGuess shape"),
        ({"probeGuess": np.zeros((N, N))}, "probeGuess dtype is float64; expected complex"),
        ({"probeGuess": np.full((2, N, N), np.nan + 0j)}, r"probeGuess\[0, 0, 0\] is"),
        ({"objectGuess": np.full((40, 40), np.inf + 0j)}, r"objectGuess\[0, 0\] is"),
        ({"scan_index": np.zeros(M)}, "scan_index dtype is float64; expected integer"),
        ({"diff3d": np.zeros((0, N, N))}, r"diff3d shape is \(0, 8, 8\); expected no empty axis"),
        ({"Y": np.zeros((M, N, N - 1), complex)}, "Y axis 2 is 7; expected N = 8"),
        ({"Y": [1, 2]}, "Y is list; expected an array"),
    ],
)
def test_what_breaks_the_contract_is_refused_by_name(changes: Any, message: str) -> None:
    with pytest.raises((ScanError, OptionTypeError), match=message):
        raw_data(**changes)


def test_a_refusal_names_the_file() -> None:
    arrays = fields()
    frames = arrays.pop("diff3d")
    with pytest.raises(
        ScanError, match=r"^scan\.npz: xcoords axis 0 is 2; expected M = 6 in shape \(M,\)\.$"
    ):
        Scan(**{**arrays, "xcoords": np.zeros(2)}, frames=frames, path=Path("scan.npz"))


def test_one_mode_stored_last_loses_its_axis() -> None:
    probe = fields()["probeGuess"]
    assert np.array_equal(raw_data(probeGuess=probe[:, :, None]).probeGuess, probe)


@pytest.mark.parametrize("name", [*ARRAYS, "objectGuess", "diff3d"])
def test_a_mask_that_would_be_lost_is_refused(name: str) -> None:
    masked = np.ma.masked_array(fields()[name], mask=False)
    with pytest.raises(OptionTypeError, match=rf"{name} is MaskedArray.*filled\(0\)"):
        raw_data(**{name: masked})


@pytest.mark.parametrize("name", ["probeGuess", "objectGuess"])
def test_numbers_that_complex64_makes_zero_are_refused(name: str) -> None:
    tiny = fields()[name].astype(np.complex128) * 1e-300
    with pytest.raises(ScanError, match=f"{name} is zero once it is complex64"):
        raw_data(**{name: tiny})
