"""Fourier ring correlation: against loops, against noise of known strength, against a low pass."""

from __future__ import annotations

import cmath

import numpy as np
import pytest
from builders import complex_noise

from ptycho_torch import fourier_ring_correlation
from ptycho_torch.data.errors import OptionError
from ptycho_torch.results.ring_correlation import half_bit


def by_loops(a, b, box):
    """The curve of a box, pixel by pixel, with sums written out."""
    window = np.zeros(a.shape)
    (top, bottom), (left, right) = box
    for row in range(top, bottom):
        for column in range(left, right):
            window[row, column] = (
                np.sin(np.pi * (row - top + 1) / (bottom - top + 1)) ** 2
                * np.sin(np.pi * (column - left + 1) / (right - left + 1)) ** 2
            )
    inside = np.s_[top:bottom, left:right]
    spectra = []
    for image in (a, b):
        mean = (image * window).sum() / window.sum()
        spectra.append(np.fft.fft2(((image - mean) * window)[inside]))
    height, width = spectra[0].shape
    side, sums = min(height, width), {}
    for row in range(height):
        for column in range(width):
            fy, fx = np.fft.fftfreq(height)[row], np.fft.fftfreq(width)[column]
            ring = round(float(np.hypot(fy, fx)) * side)
            one, other = (spectrum[row, column] for spectrum in spectra)
            old = sums.get(ring, (0, 0, 0))
            new = (one.conjugate() * other, abs(one) ** 2, abs(other) ** 2)
            sums[ring] = tuple(x + y for x, y in zip(old, new, strict=True))
    rings = [sums[ring] for ring in range(1, side // 2 + 1)]
    turn = cmath.exp(-1j * cmath.phase(sum(cross for cross, _, _ in rings)))
    return [(cross * turn).real / (p * q) ** 0.5 for cross, p, q in rings]


def test_curve_is_that_of_loops_over_the_box_of_the_mask():
    a, noise = complex_noise((23, 30), 1), complex_noise((23, 30), 2)
    mask = np.zeros((23, 30), dtype=bool)
    mask[3:20, 5:29] = True
    b = (2 - 1j) * (a + noise) + 40
    found = fourier_ring_correlation(b, a, mask)
    np.testing.assert_allclose(found.correlation, by_loops(b, a, ((3, 20), (5, 29))))
    np.testing.assert_allclose(found.frequency, np.arange(1, 9) / 17)


def test_what_lies_outside_the_mask_does_not_count():
    a, wrong = complex_noise((24, 24), 1), complex_noise((24, 24), 1)
    mask = np.ones((24, 24), dtype=bool)
    mask[10:13, 4:8] = False
    wrong[~mask] = 100
    assert fourier_ring_correlation(wrong, a, mask).correlation.min() > 1 - 1e-12
    assert fourier_ring_correlation(wrong, a).correlation.min() < 0.5


@pytest.mark.parametrize("snr", [0.25, 1.0, 4.0])
def test_two_noisy_copies_correlate_as_their_signal_to_noise_ratio_says(snr):
    signal, *noise = (complex_noise((400, 400), seed) for seed in range(3))
    one, other = (signal + each / np.sqrt(snr) for each in noise)
    curve = fourier_ring_correlation(one, other).correlation
    assert curve[50:].mean() == pytest.approx(snr / (snr + 1), abs=0.01)


def low_passed(image, cutoff):
    spectrum = np.fft.fft2(image)
    radius = np.hypot(*np.meshgrid(*(np.fft.fftfreq(side) for side in image.shape)))
    return np.fft.ifft2(np.where(cutoff >= radius.T, spectrum, 0))


@pytest.mark.parametrize("cutoff", [0.05, 0.125, 0.3])
def test_half_period_of_a_low_passed_image_is_that_of_its_cutoff(cutoff):
    image = complex_noise((256, 240), 4)
    noise = 1e-3 * complex_noise((256, 240), 5)
    found = fourier_ring_correlation(low_passed(image, cutoff) + noise, image, pixel_m=(4e-9, 5e-9))
    assert found.half_period_px == pytest.approx(0.5 / cutoff, rel=0.05)
    assert found.half_period_nm == pytest.approx(5 * found.half_period_px)


def test_equal_images_agree_to_the_last_pixel_and_a_flat_one_nowhere():
    image = complex_noise((64, 50), 4)
    assert fourier_ring_correlation(1j * image, image).half_period_px == 1
    for flat in (np.full_like(image, 0.1), np.zeros_like(image)):
        found = fourier_ring_correlation(flat, image, pixel_m=1e-9)
        assert not found.correlation.any()
        assert found.half_period_px == found.half_period_nm == np.inf


def test_noise_alone_stays_below_half_a_bit_where_rings_are_wide():
    found = fourier_ring_correlation(complex_noise((256, 256), 1), complex_noise((256, 256), 2))
    assert (found.correlation < found.threshold)[10:].all()
    assert found.half_period_nm is None


def test_half_bit_is_the_correlation_of_images_whose_sum_carries_half_a_bit():
    # log2(1 + snr) = 1/2 of the sum; each image has half that ratio, and without noise of the
    # estimate the correlation is snr / (snr + 1).
    snr = (2**0.5 - 1) / 2
    assert half_bit(1e12) == pytest.approx(snr / (snr + 1), abs=1e-4)
    assert half_bit([1.0, 0.2]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "shape, message", [((3, 9), "at least 4 pixels a side"), ((2, 8, 8), r"expected \(H, W\)")]
)
def test_images_without_rings_are_refused(shape, message):
    with pytest.raises(OptionError, match=message):
        fourier_ring_correlation(np.ones(shape), np.ones(shape))


def test_what_is_no_number_stays_none():
    image = np.random.default_rng(0).standard_normal((8, 8)) + 0j
    spoilt = image.copy()
    spoilt[0, 0] = np.nan
    assert np.isnan(fourier_ring_correlation(spoilt, image).correlation).all()
