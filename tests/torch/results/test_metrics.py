"""Figures of merit against hand examples and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from builders import complex_noise
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal, stats

from ptycho_torch.data.errors import OptionError
from ptycho_torch.results import metrics
from ptycho_torch.results.metrics import (
    align,
    complex_correlation,
    fourier_error,
    illuminated_mask,
    illumination,
)


def test_correlation_is_the_cosine_of_a_hand_example():
    # <a, b> = 1 + 1, |a| = sqrt 2, |b| = sqrt 3
    assert complex_correlation([1, 1j, 0], [1, 1j, 1]) == pytest.approx(2 / np.sqrt(6))


@settings(max_examples=25, deadline=None)
@given(phase=st.floats(-np.pi, np.pi), factor=st.floats(1e-3, 1e3))
def test_correlation_ignores_a_global_phase_and_amplitude(phase, factor):
    truth = complex_noise((6, 7))
    rotated = factor * np.exp(1j * phase) * truth
    assert complex_correlation(rotated, truth) == pytest.approx(1)


def test_correlation_sees_a_conjugate_and_a_mirrored_object():
    truth = complex_noise((20, 20))
    assert complex_correlation(truth.conj(), truth) < 0.3
    assert complex_correlation(truth[::-1], truth) < 0.3


def test_correlation_counts_only_the_mask():
    truth, wrong = complex_noise((8, 8)), complex_noise((8, 8))
    wrong[:4] = complex_noise((4, 8), 9)
    mask = np.zeros((8, 8), dtype=bool)
    mask[4:] = True
    assert complex_correlation(wrong, truth, mask) == pytest.approx(1)
    assert complex_correlation(wrong, truth) < 0.9


@pytest.mark.parametrize(
    "a, b, mask, message",
    [
        (np.ones((2, 2)), np.ones((2, 3)), None, r"\(2, 2\); expected \(2, 3\)"),
        (np.ones((2, 2)), np.ones((2, 2)), np.ones((2, 3)), "mask shape"),
        (np.ones((2, 2)), np.ones((2, 2)), np.zeros((2, 2)), "mask is empty"),
        (np.zeros((2, 2)), np.ones((2, 2)), None, "zero on every pixel"),
    ],
)
def test_correlation_refuses_what_has_no_answer(a, b, mask, message):
    with pytest.raises(OptionError, match=message):
        complex_correlation(a, b, mask)


def test_align_removes_the_global_factor():
    truth = complex_noise((5, 5))
    np.testing.assert_allclose(align(0.3 * np.exp(2j) * truth, truth), truth)


def test_align_fits_the_factor_inside_the_mask_and_applies_it_everywhere():
    truth = complex_noise((4, 4))
    rotated = 1j * truth
    rotated[0] *= 5
    mask = np.ones((4, 4), dtype=bool)
    mask[0] = False
    np.testing.assert_allclose(align(rotated, truth, mask)[0], 5 * truth[0])


def test_fourier_error_is_the_relative_distance_of_a_hand_example():
    assert fourier_error([3.0, 4.0], [3.0, 1.0]) == pytest.approx(3 / np.sqrt(10))


def test_fourier_error_refuses_dark_frames_and_other_shapes():
    with pytest.raises(OptionError, match="all zero"):
        fourier_error([1.0], [0.0])
    with pytest.raises(OptionError, match=r"\(1,\); expected \(2,\)"):
        fourier_error([1.0], [0.0, 1.0])


def test_illumination_is_the_convolution_of_positions_with_intensity():
    probe, shape = complex_noise((2, 6, 6)), (20, 24)
    rng = np.random.default_rng(1)
    positions = rng.integers(-9, 33, size=(40, 2)).astype(float)
    points = np.zeros((80, 80))
    np.add.at(points, (positions[:, 1].astype(int) + 30, positions[:, 0].astype(int) + 30), 1)
    dose = signal.convolve2d(points, (np.abs(probe) ** 2).sum(axis=0))
    # Pixel (3, 3) of the probe sits on the position.
    expected = dose[33 : 33 + shape[0], 33 : 33 + shape[1]]
    np.testing.assert_allclose(illumination(probe, positions, shape), expected, atol=1e-12)


@pytest.mark.parametrize("threshold, both", [(0.6, False), (0.5, True)])
def test_mask_is_where_the_dose_reaches_the_threshold(threshold, both):
    probe = np.ones((2, 2), dtype=complex)
    mask = illuminated_mask(probe, [[1.0, 1.0], [1.0, 1.0], [4.0, 1.0]], (3, 6), threshold)
    expected = np.zeros((3, 6), dtype=bool)
    expected[:2, :2] = True
    expected[:2, 3:5] = both
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("threshold", [0, -1, 1.5, float("nan")])
def test_mask_refuses_a_threshold_that_is_no_fraction(threshold):
    with pytest.raises(OptionError, match="threshold"):
        illuminated_mask(np.ones((2, 2)), [[1, 1]], (4, 4), threshold)


def specimen(shape=(20, 21), seed=1):
    """An object about 1 whose amplitude and phase both differ from place to place."""
    noise = complex_noise(shape, seed)
    return (1 + 0.2 * noise.real) * np.exp(0.3j * noise.imag)


def test_a_flat_object_scores_nothing_once_means_are_removed():
    truth = specimen()
    # 0.1 has no exact mean: what rounding leaves must not be compared.
    for flat in (np.ones_like(truth), np.full_like(truth, 0.1 - 0.7j), np.zeros_like(truth)):
        for figure in (
            metrics.centred_correlation,
            metrics.amplitude_pearson,
            metrics.phase_pearson,
        ):
            assert figure(flat, truth) == figure(truth, flat) == 0
    assert metrics.complex_correlation(np.ones_like(truth), truth) > 0.9
    assert metrics.centred_correlation((3 - 2j) * truth + 5, truth) == pytest.approx(1)


def test_figures_are_those_of_scipy_over_the_mask():
    truth, mask = specimen(), complex_noise((20, 21), 5).real > 0
    found = truth + 0.1 * complex_noise((20, 21), 9)
    a, b = found[mask], truth[mask]
    amplitude = stats.pearsonr(abs(a), abs(b)).statistic
    assert metrics.amplitude_pearson(2j * found, truth, mask) == pytest.approx(amplitude)
    phase = stats.pearsonr(np.angle(a), np.angle(b)).statistic
    assert metrics.phase_pearson(2j * found, truth, mask) == pytest.approx(phase, abs=2e-3)
    covariance = np.cov(a, b)
    centred = abs(covariance[0, 1]) / np.sqrt(covariance[0, 0].real * covariance[1, 1].real)
    assert metrics.centred_correlation(2j * found, truth, mask) == pytest.approx(centred)
    assert all(0.5 < figure < 0.99 for figure in (phase, amplitude, centred))


@settings(max_examples=25, deadline=None)
@given(ours=st.floats(-np.pi, np.pi), theirs=st.floats(-np.pi, np.pi))
def test_phase_pearson_ignores_the_global_phase_of_either(ours, theirs):
    truth, other = specimen(), specimen(seed=1) + 0.1 * complex_noise((20, 21), 3)
    expected = metrics.phase_pearson(other, truth)
    turned = metrics.phase_pearson(other * np.exp(1j * ours), truth * np.exp(1j * theirs))
    assert turned == pytest.approx(expected, abs=1e-9)


def test_pearson_correlations_see_a_negative_and_only_their_own_part():
    truth = specimen()
    assert metrics.phase_pearson(truth.conj(), truth) < -0.99
    assert metrics.amplitude_pearson(1 / truth, truth) < -0.9
    assert metrics.phase_pearson(truth / abs(truth), truth) == pytest.approx(1, abs=1e-3)
    assert metrics.amplitude_pearson(abs(truth), truth) == pytest.approx(1)
    assert abs(metrics.amplitude_pearson(specimen(seed=8), truth)) < 0.2


def test_frame_nrmse_counts_only_the_mask():
    modelled, measured = [[3.0, 4.0], [9.0, 0.0]], [[3.0, 1.0], [0.0, 5.0]]
    # The second row of each is bad.
    good = [[True, True], [False, False]]
    assert metrics.frame_nrmse(modelled, measured, good) == pytest.approx(3 / np.sqrt(10))
    with pytest.raises(OptionError, match="all zero"):
        metrics.frame_nrmse(modelled, measured, np.zeros((2, 2), dtype=bool))
