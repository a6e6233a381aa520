"""The first probe: its scale, its modes, its shape by brute force, and scans that come without."""

from __future__ import annotations

import numpy as np
import pytest

from ptycho_torch import RawData, initial_probe, read_scan, simulate_scan
from ptycho_torch.data.errors import OptionError, ScanError, ScanFileError, ScanKeyError
from ptycho_torch.data.geometry import Geometry
from ptycho_torch.data.initial_probe import add_modes, is_average_pattern


@pytest.fixture(scope="module")
def scan():
    return simulate_scan(n_frames=25, N=24, photons=1e4, seed=2)


@pytest.mark.parametrize("kind", ["average", "gaussian", "aperture"])
@pytest.mark.parametrize("seed", [None, 4])
def test_modes_have_the_counts_of_a_frame_and_are_orthogonal(scan, kind, seed):
    probe = initial_probe(scan, kind=kind, n_modes=4, defocus=1.5, seed=seed)
    assert probe.shape == (4, 24, 24) and probe.dtype == np.complex64
    counts = (scan.diff3d.astype(float) ** 2).sum(axis=(1, 2)).mean()
    flat = probe.reshape(4, -1).astype(complex)
    gram = flat @ flat.conj().T
    assert np.trace(gram).real == pytest.approx(counts, rel=1e-5)
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-5 * counts
    powers = np.diag(gram).real
    assert powers[1:] / powers[0] == pytest.approx([0.05, 0.025, 0.0125], rel=1e-4)


def test_average_probe_diffracts_into_the_average_pattern_by_brute_force(scan):
    (probe,) = initial_probe(scan, defocus=2.0)
    N, P = 24, 12
    pixel = np.arange(N) - P
    kernel = np.exp(-2j * np.pi * np.outer(pixel, pixel) / N) / np.sqrt(N)
    wave = kernel @ probe @ kernel.T
    mean = (scan.diff3d.astype(float) ** 2).mean(axis=0)
    assert np.allclose(np.abs(wave) ** 2, mean, rtol=1e-3, atol=1e-4 * mean.max())
    u = pixel / N
    phase = 2.0 * N * (u[:, None] ** 2 + u**2)
    bright = mean > 0.01 * mean.max()
    assert np.abs(np.angle(wave * np.exp(-1j * phase)))[bright].max() < 1e-3


def test_aperture_is_a_disc_of_its_diameter_and_symmetric(scan):
    (probe,) = initial_probe(scan, kind="aperture", diameter=0.5)
    disc = np.abs(probe) > 0.4 * np.abs(probe).max()
    assert disc[12].sum() == 13 and disc[:, 12].sum() == disc[12].sum()
    assert np.allclose(probe[1:, 1:], probe[:0:-1, :0:-1], atol=1e-4)


def test_bad_pixels_are_left_out():
    frames = np.full((3, 8, 8), 2.0, np.float32)
    scan = simulate_scan(n_frames=3, N=8, object_size=20)
    clean = RawData(scan.xcoords, scan.ycoords, scan.xcoords, scan.ycoords, frames, scan.probeGuess)
    wild = frames.copy()
    wild[:, 2, 3] = 1e4
    bad = np.zeros((8, 8), bool)
    bad[2, 3] = True
    rest = scan.xcoords, scan.ycoords, scan.xcoords, scan.ycoords
    masked = RawData(*rest, wild, scan.probeGuess, bad_pixels=bad)
    assert np.allclose(initial_probe(masked), initial_probe(clean))
    one_frame = np.zeros((3, 8, 8), bool)
    one_frame[2, 2, 3] = True
    wild = frames.copy()
    wild[one_frame] = np.nan
    per_frame = RawData(*rest, wild, scan.probeGuess, bad_pixels=one_frame)
    assert np.allclose(initial_probe(per_frame), initial_probe(clean))
    assert np.allclose(initial_probe(per_frame.choose([2, 0])), initial_probe(clean))


def test_metres_are_fractions_of_the_field_and_phases_of_it(scan):
    pixel, wavelength, z, N = 8e-9, 1.5e-10, 2e-6, scan.N
    geometry = Geometry(wavelength_m=wavelength, object_pixel_m=pixel)
    metres = initial_probe(
        scan, kind="aperture", geometry=geometry, diameter=0.3 * N * pixel, defocus=z
    )
    plain = -np.pi * wavelength * z / (N * pixel**2)
    assert np.allclose(metres, initial_probe(scan, kind="aperture", diameter=0.3, defocus=plain))
    with pytest.raises(OptionError, match="wavelength_m"):
        initial_probe(scan, geometry=Geometry(object_pixel_m=pixel), defocus=z)


def test_enough_modes_are_given_back():
    probe = np.ones((2, 4, 4), np.complex64)
    assert np.array_equal(add_modes(probe, 2), probe)


@pytest.fixture
def without_probe(scan, tmp_path):
    with np.load(scan.to_file(tmp_path / "whole.npz")) as whole:
        np.savez(tmp_path / "bare.npz", **{k: whole[k] for k in whole.files if k != "probeGuess"})
    return tmp_path / "bare.npz"


def test_file_without_a_probe_is_read_with_the_average_pattern_when_asked(scan, without_probe):
    with pytest.raises(ScanKeyError, match=r"probeGuess is missing.*probe='initial'"):
        read_scan(without_probe)
    raw = read_scan(without_probe, probe="initial")
    assert np.array_equal(raw.probeGuess, initial_probe(scan)[0])
    again = read_scan(raw.to_file(without_probe.with_name("again.npz")))
    assert is_average_pattern(raw) and is_average_pattern(again)


def test_probe_is_taken_from_an_array_or_another_file(scan, without_probe):
    whole, array = without_probe.with_name("whole.npz"), without_probe.with_name("probe.npy")
    np.save(array, 2 * scan.probeGuess)
    assert np.array_equal(read_scan(without_probe, probe=whole).probeGuess, scan.probeGuess)
    for probe in (array, 2 * scan.probeGuess):
        assert np.array_equal(read_scan(without_probe, probe=probe).probeGuess, np.load(array))
    with pytest.raises(ScanError, match="probeGuess axis 0 is 5"):
        read_scan(without_probe, probe=np.ones((5, 5), complex))


def test_options_that_cannot_work_are_refused(scan):
    with pytest.raises(OptionError, match="diameter"):
        initial_probe(scan, diameter=0.3)
    with pytest.raises(ScanError, match="zero throughout"):
        initial_probe(np.zeros((2, 8, 8)))


def test_a_scan_takes_the_probe_that_a_fit_left(tmp_path):
    scan = simulate_scan(n_frames=9, N=16, seed=1)
    file = scan.to_file(tmp_path / "scan.npz")
    probe = (1 + 2j) * scan.probeGuess[None]
    np.savez(tmp_path / "reconstruction.npz", object=scan.objectGuess, probe=probe)
    read = read_scan(file, probe=tmp_path / "reconstruction.npz")
    np.testing.assert_array_equal(read.probeGuess, probe)
    pickled = np.array([{}], dtype=object)
    np.savez(tmp_path / "pickled.npz", object=scan.objectGuess, probe=pickled)
    with pytest.raises(ScanFileError, match=r"pickled\.npz"):
        read_scan(file, probe=tmp_path / "pickled.npz")
