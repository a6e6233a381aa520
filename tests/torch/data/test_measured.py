"""Bad pixels, geometry and photons belong to a scan: from arrays to file, groups and back."""

from __future__ import annotations

import numpy as np
import pytest

from ptycho_torch.data.config import GroupingConfig
from ptycho_torch.data.errors import OptionError, OptionTypeError, ScanError
from ptycho_torch.data.frames import Frames
from ptycho_torch.data.geometry import HC_EV_M, Geometry
from ptycho_torch.data.raw_data import RawData, read_scan
from ptycho_torch.data.verify import verify_path
from ptycho_torch.simulation.scan import simulate_scan

N, M = 32, 48


@pytest.fixture(scope="module")
def scan():
    return simulate_scan(n_frames=M, N=N, seed=3)


def mask(per_frame=False):
    bad = np.zeros((N, N), bool)
    bad[5, 7] = bad[N // 2] = True
    if not per_frame:
        return bad
    every = np.broadcast_to(bad, (M, N, N)).copy()
    every[3, 20:24, 20:24] = True
    return every


def rebuilt(scan, frames, **more):
    return RawData(
        scan.xcoords,
        scan.ycoords,
        scan.xcoords,
        scan.ycoords,
        frames,
        scan.probeGuess,
        objectGuess=scan.objectGuess,
        **more,
    )


FILLED = {
    "nan": (np.float32, np.nan),
    "negative": (np.float32, -7.0),
    "sentinel": (np.uint32, 2**32 - 1),
    "negative integer": (np.int32, -1),
}


def spoiled(scan, bad, dtype, value):
    """Frames as a detector gives them: whatever it likes in bad pixels."""
    amplitude = np.array(scan.diff3d)
    frames = (amplitude if np.dtype(dtype).kind == "f" else np.rint(amplitude**2)).astype(dtype)
    frames[np.broadcast_to(bad, frames.shape)] = value
    measurement = "amplitude" if np.dtype(dtype).kind == "f" else "counts"
    return Frames.from_array(frames, measurement=measurement)


@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("kind", FILLED)
def test_bad_pixels_may_hold_anything_and_count_as_zero(scan, kind, per_frame):
    bad = mask(per_frame)
    dirty = rebuilt(scan, spoiled(scan, bad, *FILLED[kind]), bad_pixels=bad)
    dtype, _ = FILLED[kind]
    clean = rebuilt(scan, spoiled(scan, bad, dtype, 0))
    assert np.array_equal(dirty.frame_energies(), clean.frame_energies())
    assert np.array_equal(dirty.diff3d, clean.diff3d)
    ours, wanted = (
        raw.generate_grouped_data(N, K=6, nsamples=20, seed=0, gridsize=2, patch_positions="scan")
        for raw in (dirty, clean)
    )
    assert np.array_equal(ours["X_full"], wanted["X_full"])
    assert np.array_equal(ours["diffraction"], wanted["diffraction"])


@pytest.mark.parametrize("per_frame", [False, True])
def test_file_keeps_mask_geometry_and_photons(scan, tmp_path, per_frame):
    bad, photons = mask(per_frame), np.linspace(1e4, 2e4, M)
    geometry = Geometry.from_energy(8000.0, distance_m=2.0, detector_pixel_m=(75e-6, 55e-6))
    raw = rebuilt(
        scan,
        spoiled(scan, bad, np.float32, np.nan),
        bad_pixels=bad,
        geometry=geometry,
        frame_photons=photons,
    )
    path = raw.to_file(tmp_path / "scan.npz")
    back = read_scan(path)
    assert np.array_equal(back.bad_pixels, bad)
    assert back.geometry == raw.geometry != geometry
    assert np.array_equal(back.frame_photons, photons)
    assert np.array_equal(back.diff3d, raw.diff3d)
    assert not verify_path(path)
    part = back.choose(np.array([3, 1, 7])).to_file(tmp_path / "part.npz")
    assert np.array_equal(read_scan(part).bad_pixels, bad[[3, 1, 7]] if per_frame else bad)
    assert np.array_equal(read_scan(part).frame_photons, photons[[3, 1, 7]])


def test_frames_stored_last_lose_the_right_pixels(scan, tmp_path):
    bad = mask(per_frame=True)
    frames = np.array(scan.diff3d)
    frames[bad] = np.nan
    path = tmp_path / "last.npz"
    last = np.ascontiguousarray(frames.transpose(1, 2, 0))
    np.savez(
        path,
        xcoords=scan.xcoords,
        ycoords=scan.ycoords,
        diff3d=last,
        probeGuess=scan.probeGuess,
        bad_pixels=bad,
    )
    raw = read_scan(path)
    assert np.array_equal(raw.diff3d, np.where(bad, 0, scan.diff3d))
    assert np.allclose(raw.frames.verify(), raw.frame_energies(), rtol=1e-12)
    # Fortran order in the file: blocks are columns of all frames.
    path = tmp_path / "fortran.npz"
    np.savez(
        path,
        xcoords=scan.xcoords,
        ycoords=scan.ycoords,
        diff3d=np.asfortranarray(frames),
        probeGuess=scan.probeGuess,
        bad_pixels=bad,
    )
    assert not verify_path(path)


def test_a_cache_of_energies_belongs_to_one_mask(scan, tmp_path):
    grouping = GroupingConfig(gridsize=2, n_groups=20)
    bad = mask()
    for used in (None, bad, ~bad[::-1] & bad, None):
        rebuilt(scan, np.array(scan.diff3d), bad_pixels=used).to_file(tmp_path / "written.npz")
        raw = read_scan(tmp_path / "written.npz")
        (tmp_path / "written.npz").rename(tmp_path / "scan.npz")
        raw = read_scan(tmp_path / "scan.npz")
        assert np.array_equal(raw.group(grouping).frame_energies, raw.frame_energies())


def test_the_mask_tells_frames_of_one_file_apart(scan, tmp_path):
    path = scan.to_file(tmp_path / "scan.npz")
    raw = read_scan(path)
    grouping = GroupingConfig(gridsize=2, n_groups=20)
    raw.group(grouping)
    masked = RawData.sharing(raw, frames=raw.frames.with_bad_pixels(mask()))
    assert np.array_equal(masked.group(grouping).frame_energies, masked.frame_energies())
    assert masked.frame_energies().sum() < raw.frame_energies().sum()


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        (np.zeros((N, N), np.uint8), ScanError, "uint8.*mask != 0"),
        (np.zeros((N, N + 1), bool), ScanError, "bad_pixels"),
        (np.ones((N, N), bool), ScanError, "True everywhere"),
        ([[True]], OptionTypeError, "list"),
    ],
)
def test_what_is_no_mask_is_refused(scan, bad, error, words):
    with pytest.raises(error, match=words):
        rebuilt(scan, np.array(scan.diff3d), bad_pixels=bad)


@pytest.mark.parametrize("photons", [np.zeros(M), -np.ones(M), np.ones(M - 1), np.full(M, np.nan)])
def test_what_are_no_photons_is_refused(scan, photons):
    with pytest.raises(ScanError, match="frame_photons"):
        rebuilt(scan, np.array(scan.diff3d), frame_photons=photons)


def test_the_far_field_relation_completes_a_geometry_or_contradicts_it():
    known = Geometry.from_energy(8000.0, distance_m=2.0, detector_pixel_m=75e-6)
    pixel = HC_EV_M / 8000.0 * 2.0 / (64 * 75e-6)
    assert known.for_frames(64).object_pixel_m == pytest.approx(pixel)
    assert known.energy_ev == pytest.approx(8000.0)
    assert known.field_of_view_m(64) == pytest.approx((64 * pixel, 64 * pixel))
    given = Geometry(known.wavelength_m, 2.0, 75e-6, pixel * 1.2)
    with pytest.raises(OptionError, match="near_field=True"):
        given.for_frames(64)
    Geometry(known.wavelength_m, 2.0, 75e-6, pixel * 1.2, near_field=True).for_frames(64)
    # A crop to half the pixels makes object pixels twice as large; a bin of two leaves them.
    assert known.resized(32).object_pixel_m == pytest.approx(2 * pixel)
    assert known.resized(32, binning=2).object_pixel_m == pytest.approx(pixel)


@pytest.mark.parametrize(
    "wrong", [{"wavelength_m": -1}, {"distance_m": np.inf}, {"object_pixel_m": (1, 0)}]
)
def test_lengths_are_above_zero(wrong):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        Geometry(**wrong)


def test_a_geometry_that_is_none_in_a_file_is_refused(scan, tmp_path):
    path = scan.to_file(tmp_path / "scan.npz")
    with np.load(path) as content:
        members = dict(content)
    np.savez(path, **members, wavelength_m=np.array([1.0, 2.0]))
    with pytest.raises(ScanError, match=r"scan.npz: wavelength_m"):
        read_scan(path)
