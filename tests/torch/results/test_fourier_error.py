"""The Fourier error is one number, whichever array package and however many batches."""

from __future__ import annotations

import numpy as np
import pytest

from ptycho_torch.fourier_error import error_of_sums, fourier_sums


def test_error_of_a_hand_example():
    residual, energy = fourier_sums(np.array([3.0, 4.0]), np.array([3.0, 1.0]))
    assert (residual, energy) == (9, 10)
    assert error_of_sums(residual, energy) == pytest.approx(3 / np.sqrt(10))


def test_torch_gives_the_error_of_numpy():
    torch = pytest.importorskip("torch", reason="torch is not installed: errors of tensors")
    model, frames = np.random.default_rng(0).random((2, 5, 4, 8, 8))
    expected = error_of_sums(*fourier_sums(model, frames))
    sums = fourier_sums(torch.from_numpy(model), torch.from_numpy(frames))
    assert float(error_of_sums(*sums)) == pytest.approx(expected, rel=1e-12)


def test_metric_of_several_batches_is_the_error_of_all_frames_together():
    torch = pytest.importorskip("torch", reason="torch is not installed: metrics over batches")
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed: metrics")
    from ptycho_torch.models.error_metric import FourierError

    model, frames = torch.rand(2, 12, 8, 8, generator=torch.manual_seed(0), dtype=torch.float64)
    metric = FourierError()
    for rows in (slice(0, 5), slice(5, 12)):
        metric.update(*fourier_sums(model[rows], frames[rows]))
    expected = error_of_sums(*fourier_sums(model, frames))
    assert float(metric.compute()) == pytest.approx(float(expected), rel=1e-12)
    assert metric.compute().dtype == torch.float64
