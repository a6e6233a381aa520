"""The hot path against NumPy: the same bits of X, patches within rounding."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: assembly needs it")

from ptycho_torch.batches.assembly import (  # noqa: E402
    cut_patches,
    gather_scaled,
    padded_object,
    probe_of_groups,
)
from ptycho_torch.batches.buffers import BufferPool  # noqa: E402
from ptycho_torch.data.patches import reference_patches  # noqa: E402

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
    ),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "u4", "f2", "f4", "f8"])
@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("blocks", [False, True])
def test_gathered_X_has_the_bits_of_numpy(
    device: str, dtype: str, counts: bool, blocks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if blocks:
        monkeypatch.setattr("ptycho_torch.batches.assembly.BLOCK_BYTES", 2 * 4 * 8 * 8 * 4)
    rng = np.random.default_rng(0)
    frames = (rng.random((20, 8, 8)) * 200).astype(dtype)
    nn = rng.integers(0, 20, (5, 4))
    scale = rng.random(5).astype(np.float32)
    amplitude = frames[nn].astype(np.float32)
    expected = scale[:, None, None, None] * (np.sqrt(amplitude) if counts else amplitude)
    X = gather_scaled(
        torch.from_numpy(frames).to(device),
        torch.from_numpy(nn).to(device),
        torch.from_numpy(scale).to(device),
        counts=counts,
        pool=BufferPool() if blocks else None,
    )
    assert X.dtype == torch.float32
    np.testing.assert_array_equal(X.cpu().numpy(), expected.transpose(0, 2, 3, 1))
    assert X.permute(0, 3, 1, 2).is_contiguous()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("N", [7, 16])
def test_patches_equal_the_numpy_truth_for_several_objects(device: str, N: int) -> None:
    rng = np.random.default_rng(1)
    objects = [
        np.exp(1j * rng.standard_normal((40 + 5 * i, 50 - 3 * i))).astype(np.complex64)
        for i in range(3)
    ]
    origins = rng.uniform(-20, 70, (30, 4, 2)).astype(np.float32)
    scan_id = rng.integers(0, 3, 30)
    padded = [padded_object(torch.from_numpy(obj), N) for obj in objects]
    Y = cut_patches(
        tuple(obj.to(device) for obj, _ in padded),
        padded[0][1],
        torch.from_numpy(scan_id).to(device),
        torch.from_numpy(origins).to(device),
        N,
    )
    assert Y.shape == (30, N, N, 4)
    for group, scan in enumerate(scan_id):
        expected = reference_patches(objects[scan], origins[group, :, 0], origins[group, :, 1], N)
        np.testing.assert_allclose(
            Y[group].permute(2, 0, 1).cpu().numpy(), expected, atol=2e-7, rtol=0
        )


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("n_scans", [1, 2])
def test_a_probe_written_to_is_the_batchs_own(groups: int, n_scans: int) -> None:
    probes = torch.ones((n_scans, 2, 4, 4), dtype=torch.complex64)
    probe = probe_of_groups(probes, torch.zeros(groups, dtype=torch.int64))
    assert probe.shape == (groups, 2, 4, 4)
    probe[0].mul_(5)
    assert (probes == 1).all()
