"""Ground-truth patches against slices of the object and a per-pixel loop."""

from __future__ import annotations

import numpy as np
import pytest

from ptycho_torch.data.patches import patch_origins, reference_patches


def random_object(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((height, width)) + 1j * rng.standard_normal((height, width))
    return values.astype(np.complex64)


def looped_patch(obj: np.ndarray, x: float, y: float, N: int) -> np.ndarray:
    """Bilinear patch, pixel by pixel, each tap outside the object counting as zero."""
    height, width = obj.shape
    half = N // 2
    patch = np.zeros((N, N), dtype=np.complex128)
    for i in range(N):
        for j in range(N):
            column = float(np.float32(j) + np.float32(x)) - half
            row = float(np.float32(i) + np.float32(y)) - half
            left, top = int(np.floor(column)), int(np.floor(row))
            for tap_row, row_weight in ((top, 1 - (row - top)), (top + 1, row - top)):
                for tap_column, weight in ((left, 1 - (column - left)), (left + 1, column - left)):
                    if 0 <= tap_row < height and 0 <= tap_column < width:
                        patch[i, j] += row_weight * weight * obj[tap_row, tap_column]
    return patch


@pytest.mark.parametrize("N", [7, 8])
def test_patch_at_an_integer_position_is_a_slice(N: int) -> None:
    obj = random_object(30, 40)
    (patch,) = reference_patches(obj, np.array([21.0]), np.array([11.0]), N)
    half = N // 2
    np.testing.assert_array_equal(patch, obj[11 - half : 11 - half + N, 21 - half : 21 - half + N])


@pytest.mark.parametrize("N", [7, 8])
@pytest.mark.parametrize(
    ("x", "y"),
    [(12.3, 9.8), (0.0, 0.0), (-3.5, 4.25), (22.9, 17.9), (500.0, -500.0), (11.999999, 8.0000001)],
)
def test_patch_equals_a_per_pixel_loop_also_beyond_the_border(N: int, x: float, y: float) -> None:
    obj = random_object(18, 23)
    (patch,) = reference_patches(obj, np.array([x]), np.array([y]), N)
    np.testing.assert_allclose(patch, looped_patch(obj, x, y, N), atol=1e-6)


def test_patches_of_many_blocks_equal_patches_cut_one_by_one() -> None:
    obj = random_object(40, 40)
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 40, (2, 600))
    together = reference_patches(obj, x, y, 8)
    alone = np.concatenate(
        [reference_patches(obj, x[i : i + 1], y[i : i + 1], 8) for i in range(600)]
    )
    np.testing.assert_array_equal(together, alone)


def test_real_object_gives_complex_patches_without_phase() -> None:
    obj = np.abs(random_object(20, 20)).astype(np.float64)
    (patch,) = reference_patches(obj, np.array([10.0]), np.array([10.0]), 4)
    assert patch.dtype == np.complex64
    np.testing.assert_array_equal(patch, obj[8:12, 8:12].astype(np.complex64))


def test_reference_origins_are_positions_mirrored_through_the_centre() -> None:
    positions = np.array([[[10.0, 14.0, 12.0, 16.0], [1.0, 2.0, 3.0, 6.0]]])[:, None]
    centre = positions.mean(axis=3, keepdims=True)
    relative = -(positions - centre)
    scan = patch_origins(centre, relative, "scan")
    reference = patch_origins(centre, relative, "reference")
    np.testing.assert_array_equal(scan[0], positions[0, 0].T)
    np.testing.assert_array_equal(reference[0], 2 * centre[0, 0, :, 0] - positions[0, 0].T)
