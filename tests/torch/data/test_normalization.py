"""Energies and scales against sums written out in float64."""

from __future__ import annotations

import numpy as np
import pytest

from ptycho_torch.data.errors import OptionError, ScanError
from ptycho_torch.data.frames import Frames
from ptycho_torch.data.normalization import (
    CHUNK_BYTES,
    frame_energies,
    intensity_scale,
    norm_Y_I,
)


def random_frames(dtype: str, frames: int = 30, N: int = 8) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.random((frames, N, N)) * 200).astype(dtype)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f2", "f4", "f8"])
@pytest.mark.parametrize("measurement", ["amplitude", "counts"])
def test_energy_is_the_sum_of_squared_amplitudes(dtype: str, measurement: str) -> None:
    stored = random_frames(dtype)
    values = stored.astype(np.float64)
    expected = (values if measurement == "counts" else values**2).sum((1, 2))
    energies = frame_energies(Frames.from_array(stored, measurement=measurement))
    np.testing.assert_allclose(energies, expected, rtol=1e-14)


def test_energies_of_chosen_frames_are_those_of_all_frames_also_over_many_blocks() -> None:
    stored = random_frames("f4", frames=700, N=32)
    assert stored.nbytes > 2 * CHUNK_BYTES
    frames = Frames.from_array(stored)
    chosen = np.random.default_rng(1).permutation(700)[:600]
    np.testing.assert_array_equal(frame_energies(frames, chosen), frame_energies(frames)[chosen])


@pytest.mark.parametrize(
    ("value", "found"), [(np.nan, "NaN or infinite"), (np.inf, "NaN or infinite"), (-1, "negative")]
)
def test_bad_value_is_refused_with_its_frame_also_when_frames_are_chosen(
    value: float, found: str
) -> None:
    stored = random_frames("f4")
    stored[17, 2, 3] = value
    frames = Frames.from_array(stored)
    for indices in (None, np.array([3, 17, 4])):
        with pytest.raises(ScanError, match=f"frame 17 is {found}"):
            frame_energies(frames, indices)
    frame_energies(frames, np.array([3, 4]))


def test_scale_brings_the_mean_energy_of_grouped_frames_to_a_quarter_of_N_squared() -> None:
    stored = random_frames("f4")
    nn = np.random.default_rng(1).integers(0, 30, (12, 4))
    scale = intensity_scale([frame_energies(Frames.from_array(stored))[nn]], 8)
    X = np.float64(scale) * stored[nn]
    assert (X**2).sum((2, 3)).mean() == pytest.approx((8 / 2) ** 2, rel=1e-6)
    assert scale.dtype == np.float32


def test_scale_counts_every_grouped_frame_of_every_scan() -> None:
    first, second = np.full((3, 4), 2.0), np.full((1, 4), 10.0)
    expected = np.sqrt(4.0**2 / ((3 * 2 + 10) / 4))
    assert intensity_scale([first, second], 8) == pytest.approx(expected, rel=1e-6)


def test_frames_without_signal_and_photons_without_number_are_refused() -> None:
    with pytest.raises(ScanError, match="diff3d is zero in every grouped frame"):
        intensity_scale([np.zeros((5, 4))], 8)
    for photons in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(OptionError, match="nphotons"):
            norm_Y_I(4.0, photons)
