"""The hot path against NumPy: the same bits of X, a probe that a model may write to."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: assembly needs it")

from ptycho_torch.batches.assembly import gather_scaled, probe_of_groups  # noqa: E402
from ptycho_torch.batches.buffers import BufferPool  # noqa: E402


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


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("n_scans", [1, 2])
def test_a_probe_written_to_is_the_batchs_own(groups: int, n_scans: int) -> None:
    probes = torch.ones((n_scans, 2, 4, 4), dtype=torch.complex64)
    probe = probe_of_groups(probes, torch.zeros(groups, dtype=torch.int64))
    assert probe.shape == (groups, 2, 4, 4)
    probe[0].mul_(5)
    assert (probes == 1).all()
