"""Patches of torch against the NumPy truth, within rounding."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: patches as tensors")

from ptycho_torch.batches.buffers import BufferPool  # noqa: E402
from ptycho_torch.batches.patch_windows import cut_patches, stack_objects  # noqa: E402
from ptycho_torch.data.patches import reference_patches  # noqa: E402


@pytest.mark.parametrize("dtypes", [("c8", "c8", "c8"), ("c8", "c16", "c8")])
@pytest.mark.parametrize("N", [7, 16])
def test_patches_equal_the_numpy_truth_for_several_objects(
    device: str, N: int, dtypes: tuple[str, ...]
) -> None:
    rng = np.random.default_rng(1)
    objects = [
        np.exp(1j * rng.standard_normal((40 + 5 * i, 50 - 3 * i))).astype(dtype)
        for i, dtype in enumerate(dtypes)
    ]
    origins = rng.uniform(-20, 70, (30, 4, 2)).astype(np.float32)
    origins[:3] = [[-1e6, 20], [1e6, 20], [20, -1e6], [20, 1e6]]
    scan_id = rng.integers(0, 3, 30)
    stacks = [
        stack_objects(
            {i: torch.from_numpy(obj) for i, obj in enumerate(objects) if obj.dtype == dtype}, N, 3
        ).to(device)
        for dtype in sorted(set(dtypes))
    ]
    Y = cut_patches(
        tuple(stacks), torch.from_numpy(scan_id).to(device), torch.from_numpy(origins).to(device), N
    )
    assert Y.shape == (30, N, N, 4)
    for group, scan in enumerate(scan_id):
        expected = reference_patches(objects[scan], origins[group, :, 0], origins[group, :, 1], N)
        alone = stack_objects({0: torch.from_numpy(objects[scan])}, N).to(device)
        one = slice(group, group + 1)
        first = torch.zeros(1, dtype=torch.int64, device=device)
        wanted = cut_patches((alone,), first, torch.from_numpy(origins[one]).to(device), N)
        assert torch.equal(Y[one], wanted)
        np.testing.assert_allclose(
            Y[group].permute(2, 0, 1).cpu().numpy(), expected, atol=2e-7, rtol=0
        )


@pytest.mark.parametrize("modulus", [1e-3, 1.0, 100.0])
def test_rounding_of_patches_is_relative_to_the_largest_modulus(
    device: str, modulus: float
) -> None:
    rng = np.random.default_rng(0)
    obj = (modulus * np.exp(2j * np.pi * rng.random((200, 200)))).astype(np.complex64)
    origins = rng.uniform(40, 150, (200, 4, 2)).astype(np.float32)
    stack = stack_objects({0: torch.from_numpy(obj)}, 64).to(device)
    scan_id = torch.zeros(len(origins), dtype=torch.int64, device=device)
    Y = cut_patches((stack,), scan_id, torch.from_numpy(origins).to(device), 64).cpu().numpy()
    expected = np.stack([reference_patches(obj, x, y, 64) for x, y in origins.transpose(0, 2, 1)])
    error = np.abs(Y.transpose(0, 3, 1, 2) - expected).max()
    assert error <= 4e-7 * np.abs(obj).max()


@pytest.mark.parametrize("double", [False, True])
def test_patches_cut_in_blocks_equal_patches_cut_at_once(
    double: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(2)
    obj = np.exp(1j * rng.standard_normal((40, 50))).astype(np.complex128 if double else "c8")
    stack = stack_objects({0: torch.from_numpy(obj)}, 8).to(device)
    origins = torch.from_numpy(rng.uniform(-20, 70, (9, 4, 2)).astype(np.float32)).to(device)
    scan_id = torch.zeros(9, dtype=torch.int64, device=device)
    whole = cut_patches((stack,), scan_id, origins, 8)
    monkeypatch.setattr("ptycho_torch.batches.patch_windows.WINDOW_BYTES", 5 * 8 * 9**2)
    blocks = cut_patches((stack,), scan_id, origins, 8, BufferPool())
    assert whole.dtype == torch.complex64
    assert torch.equal(whole, blocks)


def test_no_group_has_no_patches() -> None:
    stack = stack_objects({0: torch.ones((20, 20), dtype=torch.complex64)}, 8)
    none = torch.zeros((0, 4, 2))
    scan_id = torch.zeros(0, dtype=torch.int64)
    assert cut_patches((stack,), scan_id, none, 8).shape == (0, 8, 8, 4)
