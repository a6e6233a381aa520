"""Simulated scans: the convention against an independent oracle, the statistics, the promises."""

from __future__ import annotations

import itertools
import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ptycho_torch.data.errors import OptionError, OptionTypeError
from ptycho_torch.data.patches import MirroredPatchesWarning
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.simulation import scan as simulate
from ptycho_torch.simulation.probes import make_probe
from ptycho_torch.simulation.scan import simulate_scan

PATTERNS = ("jittered_raster", "raster", "fermat", "random")


def amplitudes(probe, patches):
    """|F(probe * patch)| by a written-out Fourier sum, float64, modes added as intensities."""
    N = probe.shape[-1]
    k = np.arange(N)
    kernel = np.exp(-2j * np.pi * np.outer(k - N // 2, k) / N) / np.sqrt(N)
    modes = probe.reshape(-1, 1, N, N).astype(np.complex128)
    waves = kernel @ (modes * patches) @ kernel.T
    return np.sqrt((np.abs(waves) ** 2).sum(axis=0))


def relative_distance(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def frames_of(grouped, key):
    """(B, N, N, C) as (B * C, N, N)."""
    array = np.moveaxis(grouped[key], -1, 1)
    return array.reshape(-1, *array.shape[2:])


def scipy_patches(obj, x, y, N):
    """Patches with pixel (N // 2, N // 2) on row y, column x, by SciPy's order-1 spline."""
    rows, columns = np.mgrid[:N, :N] - N // 2
    where = [rows + np.reshape(y, (-1, 1, 1)), columns + np.reshape(x, (-1, 1, 1))]
    real, imag = (
        ndimage.map_coordinates(part.astype(np.float64), where, order=1)
        for part in (obj.real, obj.imag)
    )
    return real + 1j * imag


@pytest.mark.parametrize("n_modes", [1, 3])
def test_frames_follow_the_convention_written_out_by_hand(n_modes):
    scan = simulate_scan(n_frames=30, N=16, object_size=(45, 60), photons=None, n_modes=n_modes)
    patches = scipy_patches(scan.objectGuess, scan.xcoords, scan.ycoords, 16)
    # float32 coordinates: a millionth of a pixel.
    assert relative_distance(amplitudes(scan.probeGuess, patches), scan.diff3d) < 1e-5


@pytest.mark.parametrize("gridsize", [1, 2, 3])
def test_probe_times_y_diffracts_to_the_frames_of_its_group(gridsize):
    scan = simulate_scan(n_frames=49, N=32, photons=None, seed=gridsize)
    grouped = scan.generate_grouped_data(
        32, K=9, nsamples=49, gridsize=gridsize, seed=1, patch_positions="scan"
    )
    patches, measured = frames_of(grouped, "Y"), frames_of(grouped, "diffraction")
    assert relative_distance(amplitudes(scan.probeGuess, patches), measured) < 1e-5


FLIPS = {
    "axis order": lambda centre, relative, side: (centre + relative)[:, ::-1],
    "x sign": lambda centre, relative, side: (centre + relative) * [[[-1], [1]]] + [[[side], [0]]],
    "y sign": lambda centre, relative, side: (centre + relative) * [[[1], [-1]]] + [[[0], [side]]],
    "group sign": lambda centre, relative, side: centre - relative,
}


@pytest.mark.parametrize("flip", [None, *FLIPS])
def test_patches_cut_under_one_flipped_convention_miss_the_frames(flip):
    scan = simulate_scan(n_frames=64, N=32, photons=None)
    grouped = scan.generate_grouped_data(
        32, K=6, nsamples=64, gridsize=2, seed=0, patch_positions="scan"
    )
    centre = grouped["coords_offsets"][:, 0]
    relative = -grouped["coords_relative"][:, 0]
    side = scan.objectGuess.shape[0] - 1
    change = FLIPS.get(flip, lambda centre, relative, side: centre + relative)
    x, y = change(centre, relative, side).transpose(1, 0, 2).reshape(2, -1)
    modelled = amplitudes(scan.probeGuess, scipy_patches(scan.objectGuess, x, y, 32))
    measured = scan.diff3d[grouped["nn_indices"].ravel()]
    if flip is None:
        assert relative_distance(modelled, measured) < 1e-5
    else:
        assert relative_distance(modelled, measured) > 0.05


def test_patches_at_reference_positions_are_mirrored_and_miss_the_frames():
    scan = simulate_scan(n_frames=64, N=32, photons=None)
    with warnings.catch_warnings():
        # Said once a process; another test may have heard it.
        warnings.simplefilter("ignore", MirroredPatchesWarning)
        grouped = scan.generate_grouped_data(32, K=6, nsamples=64, gridsize=2, seed=0)
    patches, measured = frames_of(grouped, "Y"), frames_of(grouped, "diffraction")
    assert relative_distance(amplitudes(scan.probeGuess, patches), measured) > 0.05


@settings(max_examples=40, deadline=None)
@given(
    n_frames=st.integers(1, 40),
    pattern=st.sampled_from(PATTERNS),
    sides=st.none() | st.tuples(st.integers(13, 40), st.integers(13, 40)),
    seed=st.integers(0, 9),
)
def test_every_patch_lies_inside_the_object_for_any_number_of_frames(
    n_frames, pattern, sides, seed
):
    scan = simulate_scan(n_frames=n_frames, N=12, object_size=sides, pattern=pattern, seed=seed)
    assert scan.frames.shape == (n_frames, 12, 12)
    assert scan.diff3d.dtype == np.float32
    height, width = scan.objectGuess.shape
    assert sides is None or (height, width) == sides
    for coordinates, side in ((scan.xcoords, width), (scan.ycoords, height)):
        assert coordinates.shape == (n_frames,)
        assert coordinates.min() >= 6
        assert coordinates.max() <= side - 1 - 6


def test_raster_without_object_size_sits_on_whole_pixels():
    scan = simulate_scan(n_frames=30, N=24, pattern="raster")
    assert np.array_equal(scan.xcoords, np.rint(scan.xcoords))
    assert np.array_equal(np.unique(np.diff(np.unique(scan.xcoords))), [2])
    assert np.array_equal(np.unique(np.diff(np.unique(scan.ycoords))), [2])
    assert len(np.unique(np.stack([scan.xcoords, scan.ycoords]), axis=1).T) == 30


@pytest.mark.parametrize("pattern", ["jittered_raster", "fermat", "random"])
def test_other_patterns_have_sub_pixel_positions_all_over_the_field(pattern):
    scan = simulate_scan(n_frames=400, N=16, object_size=(120, 90), pattern=pattern)
    fraction = scan.xcoords % 1
    assert 0.4 < fraction.mean() < 0.6
    assert np.ptp(scan.xcoords) > 0.9 * (90 - 17)
    assert np.ptp(scan.ycoords) > 0.9 * (120 - 17)


def test_fermat_spiral_spreads_its_points_evenly():
    scan = simulate_scan(n_frames=300, N=16, object_size=120, pattern="fermat")
    points = np.stack([scan.xcoords, scan.ycoords], 1)
    distance = np.linalg.norm(points[:, None] - points, axis=-1) + 1e9 * np.eye(300)
    nearest = distance.min(axis=1)
    assert nearest.min() > 0.5 * np.median(nearest)


def test_same_seed_gives_the_same_scan_and_another_seed_another():
    first, second, other = (simulate_scan(n_frames=9, N=16, seed=seed) for seed in (3, 3, 4))
    for name in ("xcoords", "ycoords", "diff3d", "probeGuess", "objectGuess"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    for name in ("xcoords", "diff3d", "objectGuess"):
        assert not np.array_equal(getattr(first, name), getattr(other, name))


def test_global_random_state_is_neither_read_nor_changed():
    np.random.seed(1)
    first = simulate_scan(n_frames=4, N=16)
    drawn = np.random.random()
    np.random.seed(1)
    assert np.random.random() == drawn
    assert np.array_equal(simulate_scan(n_frames=4, N=16).diff3d, first.diff3d)


def test_noise_moves_neither_positions_nor_specimen():
    noisy, clean = (simulate_scan(n_frames=9, N=16, photons=photons) for photons in (50, None))
    for name in ("xcoords", "ycoords", "objectGuess"):
        assert np.array_equal(getattr(noisy, name), getattr(clean, name))


def test_frames_are_square_roots_of_poisson_counts_with_the_asked_mean():
    scan = simulate_scan(n_frames=400, N=16, photons=200.0)
    counts = np.asarray(scan.diff3d, dtype=np.float64) ** 2
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-3)
    assert counts.sum(axis=(1, 2)).mean() == pytest.approx(200, rel=0.01)
    patches = scipy_patches(scan.objectGuess, scan.xcoords, scan.ycoords, 16)
    expected = amplitudes(scan.probeGuess, patches) ** 2
    assert expected.sum(axis=(1, 2)).mean() == pytest.approx(200, rel=1e-4)
    # Poisson: the variance of a count is its expectation.
    assert np.mean((counts - expected) ** 2) == pytest.approx(expected.mean(), rel=0.08)


@pytest.mark.parametrize("photons", [None, 100.0])
def test_frames_do_not_depend_on_how_many_are_made_at_a_time(monkeypatch, photons):
    whole = simulate_scan(n_frames=20, N=16, photons=photons, n_modes=2)
    monkeypatch.setattr(simulate, "_CHUNK_BYTES", 1)
    one_by_one = simulate_scan(n_frames=20, N=16, photons=photons, n_modes=2)
    np.testing.assert_allclose(one_by_one.diff3d, whole.diff3d, rtol=1e-6)


@pytest.mark.parametrize("n_modes", [1, 2, 5])
def test_probe_modes_are_orthogonal_with_falling_power(n_modes):
    modes = make_probe(32, n_modes).reshape(n_modes, -1)
    gram = modes.conj() @ modes.T
    power = np.diagonal(gram).real
    np.testing.assert_allclose(gram, np.diag(power), atol=1e-12)
    assert power.sum() == pytest.approx(1)
    assert np.all(np.diff(power) < 0)


def test_probe_is_a_soft_spot_with_curvature_well_inside_the_frame():
    probe = make_probe(64)[0]
    intensity = np.abs(probe) ** 2
    border = np.ones((64, 64), dtype=bool)
    border[1:-1, 1:-1] = False
    assert intensity[border].max() < 1e-3 * intensity.max()
    centre = np.array(ndimage.center_of_mass(intensity))
    np.testing.assert_allclose(centre, 32, atol=0.05)
    phase = np.unwrap(np.angle(probe[32, 32:45]))
    assert abs(phase[-1] - phase[0]) > np.pi
    # Out of focus: most of the light is well away from where a focus would have it.
    y, x = np.indices((64, 64)) - 32
    assert np.sqrt((intensity * (x**2 + y**2)).sum() / intensity.sum()) > 0.1 * 64


def test_object_is_smooth_enough_for_bilinear_interpolation():
    obj = simulate_scan(n_frames=400, N=32).objectGuess
    assert np.abs(np.diff(obj, axis=0)).max() < 0.6
    assert np.abs(np.angle(obj)).max() > 1.0
    assert np.abs(obj).min() < 0.6


def test_metadata_tells_how_the_scan_was_made(tmp_path):
    scan = simulate_scan(n_frames=4, N=16, pattern="fermat", photons=1e3, seed=7)
    told = json.loads(json.dumps(scan.metadata))
    assert told["generator"] == "ptycho_torch.simulate_scan"
    assert (told["pattern"], told["nphotons"], told["seed"]) == ("fermat", 1e3, 7)
    scan.to_file(tmp_path / "scan.npz")
    back = RawData.from_file(tmp_path / "scan.npz")
    assert np.array_equal(back.diff3d, scan.diff3d)
    assert np.array_equal(back.objectGuess, scan.objectGuess)
    assert back.metadata["seed"] == 7


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"n_frames": 0}, OptionError, "n_frames is 0"),
        ({"n_frames": 2.5}, OptionTypeError, "n_frames"),
        ({"N": 4}, OptionError, "N is 4"),
        ({"object_size": 16}, OptionError, "object_size is 16; expected an integer >= 17"),
        ({"object_size": (40, 40, 40)}, OptionError, "object_size"),
        ({"object_size": 40.0}, OptionTypeError, "object_size"),
        ({"pattern": "spiral"}, OptionError, "'spiral'; expected one of jittered_raster"),
        ({"photons": 0}, OptionError, "photons is 0"),
        ({"photons": float("nan")}, OptionError, "photons is nan"),
        ({"photons": "many"}, OptionTypeError, "photons is 'many'"),
        ({"photons": True}, OptionTypeError, "photons is True"),
        ({"n_modes": 0}, OptionError, "n_modes is 0"),
        ({"n_modes": 17}, OptionError, "n_modes is 17; expected at most N = 16"),
        ({"seed": None}, OptionTypeError, "seed is None"),
        ({"seed": -1}, OptionError, "seed is -1"),
    ],
)
def test_bad_options_are_refused_by_name(options, error, message):
    with pytest.raises(error, match=message.replace("(", r"\(")):
        simulate_scan(**{"n_frames": 4, "N": 16, **options})


def test_patterns_are_different():
    scans = [simulate_scan(n_frames=16, N=16, pattern=pattern) for pattern in PATTERNS]
    for one, other in itertools.combinations(scans, 2):
        assert not np.array_equal(one.xcoords, other.xcoords)
