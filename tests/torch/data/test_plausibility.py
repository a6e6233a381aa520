"""Plausibility: usual mistakes are seen with the fix named; a right scan gives no warning."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from builders import simulated_arrays

from ptycho_torch import Geometry, RawData, read_scan, simulate_scan
from ptycho_torch.data.corrections import Corrections
from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import ScanError
from ptycho_torch.data.plausibility import implausible

PIXEL_M = 8e-9
FILES = Path(os.environ.get("PTYCHO_TORCH_DATA", "absent")) / "data"


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plausible")
    return simulated_arrays(folder, n_frames=225, N=64, photons=1e5, seed=4)


def said(path, **options):
    return [str(verdict) for verdict in implausible(read_scan(path, **options))]


def swapped(fields):
    return {"xcoords": fields["ycoords"], "ycoords": fields["xcoords"]}


def off_by_one(fields, lag):
    kept = slice(1, None) if lag > 0 else slice(None, -1)
    other = slice(None, -1) if lag > 0 else slice(1, None)
    frames, places = fields["diff3d"][other], {}
    for name in ("xcoords", "ycoords", "xcoords_start", "ycoords_start", "scan_index"):
        if name in fields:
            places[name] = fields[name][kept]
    return {"diff3d": frames, **places}


def with_dead(frames):
    frames = frames.copy()
    frames[:, 30, 30] = 0
    frames[:, 34, 31] = 0
    return frames


def with_full(frames, value):
    frames = frames.copy()
    frames[:, 5, 7] = np.sqrt(value)
    return frames


MISTAKES = {
    "metres": (
        lambda f: {a: f[a] * PIXEL_M for a in ("xcoords", "ycoords")},
        "positions",
        "--position-unit m",
        Corrections(position_unit="m", pixel_size_m=PIXEL_M),
    ),
    "micrometres": (
        lambda f: {a: f[a] * PIXEL_M * 1e6 / 20 for a in ("xcoords", "ycoords")},
        "positions",
        "--position-unit um",
        Corrections(position_unit="um", pixel_size_m=PIXEL_M / 20),
    ),
    "sentinels of 32 bits": (
        lambda f: {"diff3d": with_full(f["diff3d"], 2**32 - 1)},
        "frames",
        "--bad-pixels estimate",
        Corrections(bad_pixels="estimate"),
    ),
    "sentinels of 16 bits": (
        lambda f: {"diff3d": with_full(f["diff3d"], 2**16 - 1)},
        "frames",
        "--bad-pixels estimate",
        Corrections(bad_pixels="estimate"),
    ),
    "bad pixels dropped": (
        lambda f: {"diff3d": with_dead(f["diff3d"])},
        "frames",
        "--bad-pixels estimate",
        Corrections(bad_pixels="estimate"),
    ),
    "zero frequency at the corner": (
        lambda f: {"diff3d": np.fft.ifftshift(f["diff3d"], axes=(1, 2))},
        "frames",
        "--zero-frequency corner",
        Corrections(zero_frequency="corner"),
    ),
    "probe normalised": (
        lambda f: {"probeGuess": f["probeGuess"] / np.linalg.norm(f["probeGuess"])},
        "probeGuess",
        "--scale-probe",
        Corrections(scale_probe=True),
    ),
    "axes swapped": (swapped, "orientation", "--swap-xy", Corrections(swap_xy=True)),
    "y flipped": (
        lambda f: {"ycoords": f["ycoords"].min() + f["ycoords"].max() - f["ycoords"]},
        "orientation",
        "--flip-y",
        Corrections(flip_y=True),
    ),
    "axes turned": (
        lambda f: {"xcoords": f["ycoords"].max() + 32 - f["ycoords"], "ycoords": f["xcoords"]},
        "orientation",
        "--swap-xy --flip-y",
        Corrections(swap_xy=True, flip_y=True),
    ),
    "frames transposed": (
        lambda f: {"diff3d": np.ascontiguousarray(f["diff3d"].swapaxes(1, 2))},
        "orientation",
        "--swap-xy",
        Corrections(transpose_frames=True),
    ),
    "origin in the middle": (
        lambda f: {a: f[a] - f[a].mean() for a in ("xcoords", "ycoords")},
        "positions",
        "--shift-origin",
        Corrections(shift_origin=True),
    ),
    "origin far away": (
        lambda f: {a: f[a] + 5000 for a in ("xcoords", "ycoords")},
        "positions",
        "--shift-origin",
        Corrections(shift_origin=True),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_seen_and_what_it_says_to_type_mends_it(tmp_path, fields, name):
    mistake, field, action, mends = MISTAKES[name]
    changes = mistake(fields)
    kept = {k: v for k, v in fields.items() if not (k.endswith("_start") and "xcoords" in changes)}
    if name == "y flipped":
        kept = {k: v for k, v in fields.items() if not k.endswith("_start")}
    np.savez(tmp_path / "wrong.npz", **{**kept, **changes})
    verdicts = said(tmp_path / "wrong.npz")
    assert len(verdicts) >= 1
    assert verdicts[0].startswith(f"{field}: ")
    assert "; expected " in verdicts[0]
    assert f"{action}" in verdicts[0]
    assert said(tmp_path / "wrong.npz", corrections=mends) == []


@pytest.mark.parametrize(("lag", "word"), [(1, "first position"), (-1, "first frame")])
def test_frames_off_by_one_are_seen_in_a_jittered_scan(tmp_path, fields, lag, word):
    np.savez(tmp_path / "late.npz", **{**fields, **off_by_one(fields, -lag)})
    (verdict,) = said(tmp_path / "late.npz")
    assert verdict.startswith("order: ")
    assert word in verdict


def test_counts_read_as_amplitude_and_amplitude_read_as_counts_are_seen(tmp_path, fields):
    counts = np.round(np.square(fields["diff3d"])).astype(np.float32)
    np.savez(tmp_path / "counts.npz", **{**fields, "diff3d": counts})
    np.savez(tmp_path / "amplitude.npz", **fields)
    wrong = said(tmp_path / "counts.npz", measurement="amplitude")
    assert any("--measurement counts" in verdict for verdict in wrong)
    assert said(tmp_path / "counts.npz", measurement="counts") == []
    wrong = said(tmp_path / "amplitude.npz", measurement="counts")
    assert any("--measurement amplitude" in verdict for verdict in wrong)


def test_constant_rows_and_a_background_are_seen(tmp_path, fields):
    rows, grey = fields["diff3d"].copy(), np.sqrt(np.square(fields["diff3d"]) + 20)
    rows[:, 3] = 2
    for name, frames, word in (("rows", rows, "1 rows"), ("grey", grey, "background")):
        np.savez(tmp_path / "wrong.npz", **{**fields, "diff3d": frames.astype(np.float32)})
        assert any(word in verdict for verdict in said(tmp_path / "wrong.npz")), name


def test_frames_that_share_nothing_are_seen(tmp_path, fields):
    far = {a: fields[a] * 30 for a in ("xcoords", "ycoords")}
    kept = {k: v for k, v in fields.items() if not k.endswith("_start") and k != "objectGuess"}
    np.savez(tmp_path / "far.npz", **{**kept, **far})
    assert any(verdict.startswith("overlap: ") for verdict in said(tmp_path / "far.npz"))


def test_an_average_pattern_says_nothing_of_the_overlap(tmp_path, fields):
    grid = np.arange(225).reshape(15, 15)[::3, ::3].ravel()
    names = ("diff3d", "xcoords", "ycoords", "xcoords_start", "ycoords_start", "scan_index")
    few = {name: fields[name][grid] for name in names if name in fields}
    np.savez(tmp_path / "scan.npz", **{**fields, **few})
    assert said(tmp_path / "scan.npz", probe="initial") == []


def test_patches_beyond_the_object_are_seen(fields):
    scan = RawData.from_coords_without_pc(
        fields["xcoords"] + 20,
        fields["ycoords"],
        fields["diff3d"],
        fields["probeGuess"],
        objectGuess=fields["objectGuess"],
    )
    assert any("beyond an object" in str(verdict) for verdict in implausible(scan))


@pytest.mark.parametrize("pattern", ["jittered_raster", "raster", "fermat", "random"])
@pytest.mark.parametrize(("n_frames", "N", "photons"), [(40, 16, 1e4), (150, 32, None), (1, 32, 1)])
def test_a_simulated_scan_gives_no_alarm(pattern, n_frames, N, photons):
    for seed in range(3):
        scan = simulate_scan(
            n_frames=n_frames, N=N, pattern=pattern, photons=photons, n_modes=1 + seed, seed=seed
        )
        assert implausible(scan) == []


def test_the_demo_scan_gives_no_alarm():
    assert implausible(simulate_scan(n_frames=1156, N=64, seed=0)) == []


@pytest.mark.skipif(not FILES.is_dir(), reason="PTYCHO_TORCH_DATA names no folder with data/")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("aps_velociprobe_siemens.npz", {}),
        ("aps_velociprobe_siemens.npz", {"probe": "initial"}),
        ("formats/ptychodus170/ptychopinn_training.npz", {"measurement": "counts"}),
    ],
)
def test_a_measured_scan_gives_no_alarm(name, options):
    assert said(FILES / name, **options) == []


def test_corrections_keep_start_positions_and_turn_bad_pixels_with_the_frames(fields):
    bad = np.zeros((64, 64), bool)
    bad[3, 10] = True
    scan = RawData(
        fields["xcoords"],
        fields["ycoords"],
        fields["xcoords"] + 0.25,
        fields["ycoords"],
        fields["diff3d"],
        fields["probeGuess"],
        bad_pixels=bad,
        geometry=Geometry(object_pixel_m=(1e-8, 2e-8)),
    )
    turned = Corrections(transpose_frames=True, flip_x=True).of_measurement(scan)
    np.testing.assert_array_equal(turned.bad_pixels, bad.T)
    np.testing.assert_array_equal(turned.diff3d, scan.diff3d.swapaxes(1, 2))
    np.testing.assert_allclose(turned.xcoords_start, turned.xcoords - 0.25)
    assert turned.geometry.object_pixel_m == (2e-8, 1e-8)
    assert Corrections().of_measurement(scan) is scan


@pytest.mark.parametrize("probe", ["file", "initial"])
def test_positions_far_apart_are_seen_whatever_the_probe(tmp_path, fields, probe):
    far = {a: fields[a] * 1e3 for a in ("xcoords", "ycoords")}
    kept = {k: v for k, v in fields.items() if not k.endswith("_start") and k != "objectGuess"}
    np.savez(tmp_path / "far.npz", **{**kept, **far})
    assert any(
        verdict.startswith("overlap: ") for verdict in said(tmp_path / "far.npz", probe=probe)
    )


def of_places(fields, x, y, **kept):
    numbers = np.arange(len(x))
    frames, probe = fields["diff3d"], fields["probeGuess"]
    return RawData(x, y, x, y, frames, probe, numbers, **kept)


def test_a_file_in_metres_is_not_told_of_a_position_unit(fields):
    x, y = fields["xcoords"] * 1e3, fields["ycoords"] * 1e3
    scan = of_places(fields, x, y, metadata={"format": "cxi"})
    (verdict,) = [str(v) for v in implausible(scan) if v.field == "overlap"]
    assert "--position-unit" not in verdict
    assert "energy, distance and pixels" in verdict
    early = of_places(fields, fields["xcoords"] - 99, y / 1e3, metadata={"format": "cxi"})
    (verdict,) = implausible(early, Corrections(shift_origin=True))
    assert "--pixel-size" not in verdict.action


def test_order_and_orientation_are_seen_where_some_frames_have_no_position(fields):
    x, y = fields["xcoords"], fields["ycoords"]
    some = np.delete(np.arange(len(x)), 5)
    assert implausible(of_places(fields, x, y).choose(some)) == []
    mirrored = of_places(fields, x, y.min() + y.max() - y)
    assert [v.field for v in implausible(mirrored.choose(some))] == ["orientation"]
    late = of_places(fields, np.roll(x, 1), np.roll(y, 1))
    (verdict,) = implausible(late.choose(some[1:]))
    assert verdict.field == "order" and "begin at 0, or both at 1" in verdict.action


@pytest.mark.parametrize(("dtype", "value"), [(np.uint16, 65535), (np.uint32, 2**32 - 1)])
@pytest.mark.parametrize("frames", [slice(None, None, 2), slice(7, 8)])
def test_the_largest_integer_in_some_frames_is_named(tmp_path, fields, dtype, value, frames):
    counts = np.rint(np.square(fields["diff3d"].astype(np.float64))).astype(dtype)
    counts[frames, 5] = value
    np.savez(tmp_path / "some.npz", **{**fields, "diff3d": counts})
    (verdict,) = said(tmp_path / "some.npz", measurement="counts")
    assert f"64 pixels hold {value} in some frames" in verdict
    assert f"--saturation {value}" in verdict
    assert len(said(tmp_path / "some.npz", measurement="counts", probe="initial")) == 1
    mended = {"measurement": "counts", "detector": Detector(saturation=value)}
    assert said(tmp_path / "some.npz", **mended) == []


def test_a_mask_of_most_pixels_is_named(tmp_path, fields):
    good = np.zeros((64, 64), bool)
    good[3, 5] = good[30:34, 30:34] = True
    np.savez(tmp_path / "mask.npz", **{**fields, "bad_pixels": ~good})
    assert any("is 1 good" in verdict.lower() for verdict in said(tmp_path / "mask.npz"))
    good[30:34, 30:34] = False
    dark = fields["diff3d"].copy()
    dark[:, 3, 5] = 0
    np.savez(tmp_path / "mask.npz", **{**fields, "diff3d": dark, "bad_pixels": ~good})
    with pytest.raises(ScanError, match=r"zero throughout.*is 1 good in the mask"):
        read_scan(tmp_path / "mask.npz", probe="initial")


@pytest.mark.parametrize("centre", [(32, 32), (24, 41)])
def test_padding_that_is_bad_is_none_of_the_mask(tmp_path, fields, centre):
    """Neither of the scan as it is read, nor of the file that is written of it."""
    padded = Detector(size=160, centre=centre, pad_value=None)
    scan = read_scan(amplitudes_in(tmp_path / "scan.npz", fields), detector=padded, probe="initial")
    assert scan.bad_pixels.mean() > 0.5
    scan.to_file(tmp_path / "padded.npz")
    for read in (scan, read_scan(tmp_path / "padded.npz")):
        assert not any(verdict.field == "bad_pixels" for verdict in implausible(read))
    inverted = np.ones((64, 64), bool)
    inverted[5::9, 3::7] = False
    path = amplitudes_in(tmp_path / "inverted.npz", {**fields, "bad_pixels": inverted})
    verdicts = said(path, detector=padded, probe="initial")
    assert any("is 1 good" in verdict.lower() for verdict in verdicts)


def amplitudes_in(path, fields):
    np.savez(path, **fields)
    return path


def test_bins_that_leave_less_than_the_light_say_so(tmp_path):
    fields = simulated_arrays(tmp_path, n_frames=225, N=64, photons=1e7, seed=4)
    counts = np.round(np.square(fields["diff3d"].astype(np.float64))).astype(np.uint32)
    np.savez(tmp_path / "counts.npz", **{**fields, "diff3d": counts})
    given = {"measurement": "counts", "probe": "initial"}
    (verdict,) = said(tmp_path / "counts.npz", **given, detector=Detector(size=20, bin=3))
    assert "Add a smaller --bin than 3" in verdict and "near" not in verdict
    assert not said(tmp_path / "counts.npz", **given, detector=Detector(bin=2))


@pytest.mark.skipif(not FILES.is_dir(), reason="PTYCHO_TORCH_DATA names no folder with data/")
def test_a_near_field_that_no_file_says_is_seen_by_its_shadows():
    pytest.importorskip("h5py", reason="h5py is not installed: nothing to read CXI with")
    path = FILES / "PETRAIII_P25_Near_Field_Ptycho.cxi"
    (verdict,) = said(path, probe="initial")
    assert "--option near_field=true" in verdict
    known = {"near_field": True, "object_pixel_m": 5.5e-5 / 20}
    assert not any("near_field" in v for v in said(path, probe="initial", **known))


@pytest.mark.parametrize("axis", ["xcoords", "ycoords"])
def test_a_reversed_axis_names_both_twins(tmp_path, fields, axis):
    kept = {k: v for k, v in fields.items() if not k.endswith("_start")}
    mirrored = fields[axis].min() + fields[axis].max() - fields[axis]
    np.savez(tmp_path / "mirrored.npz", **{**kept, axis: mirrored})
    (verdict,) = said(tmp_path / "mirrored.npz")
    assert "--flip-y or --flip-x" in verdict and "--orientations" in verdict
