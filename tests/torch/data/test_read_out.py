"""Detector options on formats that have their frames as N x N: what follows the pixels."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from ptycho_torch.data.config import GroupingConfig
from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import OptionError
from ptycho_torch.data.raw_data import read_scan
from ptycho_torch.simulation.scan import simulate_scan

N, M = 32, 30


@pytest.fixture(scope="module")
def scan():
    return simulate_scan(n_frames=M, N=N, photons=1e5, seed=4)


@pytest.fixture(params=["stored", "compressed", "frames last"])
def path(request, scan, tmp_path):
    counts = np.rint(np.asarray(scan.diff3d) ** 2).astype(np.uint16)
    counts[:, 5, 5] = 60_000
    fields = {name: getattr(scan, name) for name in ("xcoords", "ycoords", "probeGuess")}
    fields |= {"objectGuess": scan.objectGuess, "detector_pixel_m": 75e-6, "wavelength_m": 1.5e-10}
    fields["distance_m"] = 0.5
    if request.param == "frames last":
        counts = np.ascontiguousarray(counts.transpose(1, 2, 0))
    save = np.savez_compressed if request.param == "compressed" else np.savez
    save(tmp_path / "scan.npz", diff3d=counts, **fields)
    return tmp_path / "scan.npz"


def counts_of(scan):
    counts = np.rint(np.asarray(scan.diff3d) ** 2)
    counts[:, 5, 5] = 0
    return counts


def read(path, **options):
    return read_scan(path, measurement="counts", detector=Detector(**options), probe="auto")


def test_a_crop_makes_object_pixels_larger_and_positions_follow(scan, path, caplog):
    raw = read(path, size=16, saturation=60_000)
    inside = counts_of(scan)[:, 8:24, 8:24]
    assert np.allclose(raw.diff3d, np.sqrt(inside))
    assert np.allclose(raw.xcoords, scan.xcoords / 2) and np.allclose(raw.ycoords, scan.ycoords / 2)
    assert raw.geometry.object_pixel_m == pytest.approx(1.5e-10 * 0.5 / (16 * 75e-6))
    assert raw.objectGuess is None and raw.probeGuess.shape == (16, 16)
    assert "the probe is left out" in caplog.text and "objectGuess is left out" in caplog.text
    again = pickle.loads(pickle.dumps(raw))  # noqa: S301
    assert np.array_equal(again.diff3d, raw.diff3d)


def test_bins_add_counts_and_leave_object_pixels(scan, path):
    raw = read(path, bin=2, saturation=60_000)
    bad = np.zeros((16, 16), bool)
    bad[2, 2] = True
    summed = counts_of(scan).reshape(M, 16, 2, 16, 2).sum(axis=(2, 4))
    assert np.array_equal(raw.bad_pixels, bad)
    assert np.allclose(raw.diff3d, np.sqrt(np.where(bad, 0, summed)))
    assert np.array_equal(raw.xcoords, scan.xcoords)
    assert np.array_equal(raw.objectGuess, scan.objectGuess)


def test_bad_pixels_alone_change_nothing_else(scan, path, caplog):
    raw = read(path, saturation=60_000)
    assert "1 saturated" in caplog.text or "1 hot" in caplog.text
    assert raw.bad_pixels[5, 5] and raw.bad_pixels.sum() == 1
    assert np.array_equal(raw.xcoords, scan.xcoords)
    assert np.array_equal(raw.probeGuess, scan.probeGuess)


def test_caches_belong_to_the_options(path):
    grouping = GroupingConfig(gridsize=2, n_groups=8)
    for options in ({"size": 16}, {"bin": 2}, {"size": 16, "centre": (15, 16)}, {}):
        raw = read(path, **options)
        assert np.array_equal(raw.group(grouping).frame_energies, raw.frame_energies())


def test_amplitudes_are_cropped_but_not_added(scan, tmp_path):
    path = scan.to_file(tmp_path / "amplitude.npz")
    raw = read_scan(path, detector=Detector(size=16), probe="initial")
    assert np.array_equal(raw.diff3d, scan.diff3d[:, 8:24, 8:24])
    with pytest.raises(OptionError, match=r"bin is given for amplitudes.*measurement='counts'"):
        read_scan(path, detector=Detector(bin=2))
