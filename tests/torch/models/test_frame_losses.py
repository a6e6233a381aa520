"""Frame losses against NumPy and SciPy."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from scipy import stats

torch = pytest.importorskip("torch", reason="torch is not installed: losses are of tensors")

from ptycho_torch.data.errors import OptionError  # noqa: E402
from ptycho_torch.models.frame_losses import FrameLoss, frame_loss  # noqa: E402

NAMES = get_args(FrameLoss)
SCALE = 0.01


@pytest.fixture(scope="module")
def frames():
    """Modelled amplitudes and amplitudes of counts, many of them 0, in the units of X."""
    random = np.random.default_rng(0)
    mean = random.exponential(20, size=(4, 2, 8, 8))
    counts = random.poisson(mean)
    assert (counts == 0).sum() > 10
    return SCALE * np.sqrt(mean), SCALE * np.sqrt(counts)


def loss_of(name, modelled, measured):
    arrays = (modelled, measured)
    return float(frame_loss(name, *(torch.tensor(x, dtype=torch.float64) for x in arrays)))


def test_amplitude_losses_are_those_of_numpy(frames):
    modelled, measured = frames
    difference = modelled - measured
    assert loss_of("amplitude_mse", *frames) == pytest.approx((difference**2).mean())
    assert loss_of("amplitude_mae", *frames) == pytest.approx(np.abs(difference).mean())


def test_poisson_is_the_likelihood_of_scipy_less_that_of_a_perfect_model(frames):
    mean, counts = ((part / SCALE) ** 2 for part in frames)
    counts = counts.round()
    lost = stats.poisson.logpmf(counts, counts) - stats.poisson.logpmf(counts, mean)
    assert loss_of("poisson", *frames) == pytest.approx(SCALE**2 * lost.mean(), rel=0.01)


@pytest.mark.parametrize("amplitude", [1.0, 0.1, 1e-3, 0.0])
def test_poisson_has_its_minimum_where_the_intensity_is_the_count(amplitude):
    measured = torch.tensor(amplitude, dtype=torch.float64)
    intensity = measured.square().clone().requires_grad_()
    modelled = intensity.clamp_min(1e-300).sqrt()
    (slope,) = torch.autograd.grad(frame_loss("poisson", modelled, measured), intensity)
    assert abs(float(slope)) < 1e-9
    for away in (-0.1, -0.01, 0.01, 0.1):
        assert float(frame_loss("poisson", measured + away * (amplitude + 0.1), measured)) > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_model_costs_nothing_and_no_other_costs_less(name, frames):
    modelled, measured = frames
    assert abs(loss_of(name, measured, measured)) < 1e-15
    assert loss_of(name, modelled, measured) > 1e-6
    assert loss_of(name, 0 * measured, measured) > loss_of(name, modelled, measured)


@pytest.mark.parametrize("name", NAMES)
def test_bad_pixels_weigh_nothing_and_the_normaliser_does_not_know_them(name, frames):
    modelled, measured = (part.copy() for part in frames)
    modelled[:, :, 2:4], measured[:, :, 2:4] = 0, 0
    kept = [np.delete(part, (2, 3), axis=2) for part in frames]
    whole = loss_of(name, modelled, measured)
    assert whole == pytest.approx(loss_of(name, *kept) * 6 / 8)
    tensors = [torch.tensor(part, requires_grad=True) for part in (modelled, measured)]
    frame_loss(name, *tensors).backward()
    gradient = tensors[0].grad
    assert torch.isfinite(gradient).all()
    assert not gradient[:, :, 2:4].any()


@pytest.mark.parametrize("name", NAMES)
def test_the_mean_over_equal_halves_is_the_whole(name, frames):
    halves = [loss_of(name, *(part[rows] for part in frames)) for rows in np.split(np.arange(4), 2)]
    assert halves[0] != pytest.approx(halves[1], rel=1e-3)
    assert np.mean(halves) == pytest.approx(loss_of(name, *frames), rel=1e-12)


def test_another_loss_is_refused_by_name():
    with pytest.raises(OptionError, match=r"loss is 'mse'; expected .*amplitude_mse"):
        frame_loss("mse", torch.ones(1), torch.ones(1))
