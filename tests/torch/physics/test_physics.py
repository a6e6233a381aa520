"""The forward model against loops, SciPy, finite differences, and its own adjoint."""

from __future__ import annotations

import numpy as np
import pytest
from builders import complex_noise
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

torch = pytest.importorskip("torch", reason="torch is not installed: the forward model")

from ptycho_torch.data.errors import OptionError  # noqa: E402
from ptycho_torch.data.patches import reference_patches as numpy_patches  # noqa: E402
from ptycho_torch.physics import (  # noqa: E402
    diffract,
    illuminate,
    object_patches,
    object_shape_for,
    stitch,
)


def patch_by_scipy(obj, x, y, N):
    """Order-1 spline on the object with a wide border of zeros: every tap outside counts as 0."""
    border = 2 * N
    padded = np.pad(obj, border)
    rows, columns = np.mgrid[:N, :N] - N // 2 + border
    where = np.array([rows + y, columns + x])
    real, imag = (
        ndimage.map_coordinates(part, where, order=1, mode="constant")
        for part in (padded.real, padded.imag)
    )
    return real + 1j * imag


def test_object_patches_are_slices_at_integer_positions():
    obj = torch.from_numpy(complex_noise((20, 24)))
    patch = object_patches(obj, torch.tensor([[11.0, 7.0]]), 6)[0]
    assert torch.equal(patch, obj[4:10, 8:14])


@settings(max_examples=60, deadline=None)
@given(
    x=st.floats(-12, 40, allow_nan=False),
    y=st.floats(-12, 40, allow_nan=False),
    N=st.integers(1, 9),
)
def test_object_patches_agree_with_scipy_inside_across_and_beyond_the_border(x, y, N):
    obj = complex_noise((23, 29))
    patch = object_patches(torch.from_numpy(obj), torch.tensor([[x, y]], dtype=torch.float64), N)
    np.testing.assert_allclose(patch[0].numpy(), patch_by_scipy(obj, x, y, N), atol=1e-12)


def test_object_patches_agree_with_the_numpy_truth_in_single_precision():
    obj = complex_noise((90, 100)).astype(np.complex64)
    rng = np.random.default_rng(1)
    x, y = rng.uniform(-5, 105, 50), rng.uniform(-5, 95, 50)
    ours = object_patches(torch.from_numpy(obj), torch.from_numpy(np.stack([x, y], 1)), 32)
    # The NumPy truth rounds coordinates to float32: half a unit in the last place of 100.
    np.testing.assert_allclose(ours.numpy(), numpy_patches(obj, x, y, 32), atol=4e-5)


def test_object_patches_keep_the_axes_of_the_positions():
    obj = torch.from_numpy(complex_noise((20, 20)))
    positions = torch.rand(3, 4, 2, dtype=torch.float64) * 8 + 6
    patches = object_patches(obj, positions, 5)
    assert patches.shape == (3, 4, 5, 5)
    assert torch.equal(patches[2, 1], object_patches(obj, positions[2, 1], 5))


@pytest.mark.slow
def test_object_patches_have_the_gradient_of_finite_differences():
    obj = torch.from_numpy(complex_noise((9, 8))).requires_grad_()
    positions = torch.from_numpy(np.random.default_rng(2).uniform(-2, 10, (4, 2))).requires_grad_()

    def cut(o, p):
        return object_patches(o, p, 4)

    assert torch.autograd.gradcheck(cut, (obj, positions))
    assert torch.autograd.gradgradcheck(cut, (obj, positions))


def test_object_gradient_is_as_large_as_the_object():
    obj = torch.ones(40, 50, dtype=torch.complex64, requires_grad=True)
    object_patches(obj, torch.full((7, 2), 20.0), 16).abs().sum().backward()
    assert obj.grad.shape == obj.shape
    assert obj.grad.sum().real == pytest.approx(7 * 16 * 16)


@pytest.mark.parametrize("modes, N", [(1, 6), (3, 6), (1, 7)])
def test_diffract_is_the_written_out_fourier_sum(modes, N):
    waves = complex_noise((2, modes, N, N))
    k = np.arange(N)
    kernel = np.exp(-2j * np.pi * np.outer(k - N // 2, k) / N) / np.sqrt(N)
    expected = np.sqrt((np.abs(kernel @ waves @ kernel.T) ** 2).sum(axis=1))
    np.testing.assert_allclose(diffract(torch.from_numpy(waves)).numpy(), expected, atol=1e-12)


def test_diffract_keeps_the_photon_count():
    waves = torch.from_numpy(complex_noise((5, 2, 8, 8)))
    counts = diffract(waves).square().sum(dim=(-2, -1))
    assert torch.allclose(counts, waves.abs().square().sum(dim=(-3, -2, -1)))


@pytest.mark.parametrize("modes", [1, 2])
def test_diffract_has_a_finite_gradient_where_a_frame_is_dark(modes):
    waves = torch.zeros(1, modes, 4, 4, dtype=torch.complex64, requires_grad=True)
    diffract(waves).sum().backward()
    assert torch.equal(waves.grad, torch.zeros_like(waves))


def test_illuminate_multiplies_every_mode_with_every_patch():
    probe = torch.from_numpy(complex_noise((2, 3, 4, 4), 1))
    patches = torch.from_numpy(complex_noise((2, 5, 4, 4), 2))
    waves = illuminate(probe, patches)
    assert waves.shape == (2, 5, 3, 4, 4)
    assert torch.equal(waves[1, 4, 2], probe[1, 2] * patches[1, 4])
    assert torch.equal(illuminate(probe[0], patches)[1, 4, 2], probe[0, 2] * patches[1, 4])


def test_forward_model_has_the_gradient_of_finite_differences_for_object_and_probe():
    obj = torch.from_numpy(complex_noise((9, 9))).requires_grad_()
    probe = torch.from_numpy(complex_noise((2, 4, 4), 1)).requires_grad_()
    positions = torch.tensor([[[4.3, 4.6], [5.0, 3.9]]], dtype=torch.float64)

    def model(o, p):
        return diffract(illuminate(p, object_patches(o, positions, 4)))

    assert torch.autograd.gradcheck(model, (obj, probe))


def test_stitch_is_the_adjoint_of_object_patches_over_its_weight():
    N, shape = 6, (20, 22)
    obj = torch.from_numpy(complex_noise(shape))
    patches = torch.from_numpy(complex_noise((9, N, N), 1))
    rng = np.random.default_rng(3)
    positions = torch.from_numpy(rng.uniform(-3, 24, (9, 2)))
    weights = torch.from_numpy(rng.uniform(0.5, 2, (9, N, N)))
    # The weight of every object pixel, by cutting patches out of one unit pixel at a time.
    unit = torch.eye(shape[0] * shape[1], dtype=torch.complex128).reshape(-1, *shape)
    weight = torch.stack([(weights * object_patches(u, positions, N)).sum().real for u in unit])
    stitched = stitch(patches, positions, shape, weights) * weight.reshape(shape)
    left = (stitched.conj() * obj).sum()
    right = ((weights * patches).conj() * object_patches(obj, positions, N)).sum()
    assert torch.allclose(left, right)


@pytest.mark.parametrize("weighted", [False, True])
def test_stitch_gives_the_object_back_at_integer_positions(weighted):
    N, shape = 16, (60, 50)
    obj = complex_noise(shape).astype(np.complex64)
    y, x = (axis.ravel() for axis in np.mgrid[8:52:4, 8:42:5].astype(np.float64))
    patches = torch.from_numpy(numpy_patches(obj, x, y, N))
    weights = torch.rand(N, N) + 0.1 if weighted else None
    back = stitch(patches, torch.from_numpy(np.stack([x, y], 1)), shape, weights).numpy()
    rows, columns = slice(0, int(y.max()) + 8), slice(0, int(x.max()) + 8)
    np.testing.assert_allclose(back[rows, columns], obj[rows, columns], atol=1e-6)
    outside = np.ones(shape, dtype=bool)
    outside[rows, columns] = False
    assert np.all(back[outside] == 0)


def test_stitch_smooths_by_less_than_a_pixel_at_sub_pixel_positions():
    N, shape = 16, (60, 60)
    rng = np.random.default_rng(4)
    obj = ndimage.gaussian_filter(rng.normal(size=shape), 3) + 0j
    positions = torch.from_numpy(rng.uniform(9, 50, (400, 2)))
    patches = object_patches(torch.from_numpy(obj), positions, N)
    back = stitch(patches, positions, shape).numpy()[12:48, 12:48]
    obj = obj[12:48, 12:48]
    # Reading and writing each average over one pixel: 2 % of a structure 3 pixels wide.
    assert np.linalg.norm(back - obj) < 0.05 * np.linalg.norm(obj)


def test_stitch_leaves_out_patches_of_weight_zero():
    good, bad = torch.full((1, 4, 4), 2.0), torch.full((1, 4, 4), 100.0)
    weights = torch.tensor([1.0, 0.0])[:, None, None]
    back = stitch(torch.cat([good, bad]), torch.full((2, 2), 5.0), (10, 10), weights)
    assert torch.equal(back[3:7, 3:7], torch.full((4, 4), 2.0))
    assert back.sum() == 32


def test_stitch_is_differentiable():
    patches = torch.from_numpy(complex_noise((3, 4, 4))).requires_grad_()
    positions = torch.from_numpy(np.random.default_rng(5).uniform(2, 6, (3, 2)))
    assert torch.autograd.gradcheck(lambda p: stitch(p, positions, (8, 8)), (patches,))


@settings(max_examples=50, deadline=None)
@given(
    points=st.lists(st.tuples(st.floats(4, 60), st.floats(4, 60)), min_size=1, max_size=8),
    N=st.integers(1, 8),
)
def test_object_shape_holds_every_pixel_a_patch_reads(points, N):
    shape = object_shape_for(points, N)
    ones = torch.ones(shape, dtype=torch.complex128)
    positions = torch.tensor(points, dtype=torch.float64)
    assert object_patches(ones, positions, N).real.min() > 1 - 1e-12


def test_object_shape_is_rows_from_y_and_columns_from_x():
    assert object_shape_for([[10.0, 30.5], [12.5, 20.0]], 8) == (30 - 4 + 8 + 1, 12 - 4 + 8 + 1)


@pytest.mark.parametrize(
    "positions, found", [(np.empty((0, 2)), "empty"), ([[np.nan, 1]], "finite")]
)
def test_object_shape_refuses_positions_that_say_nothing(positions, found):
    with pytest.raises(OptionError, match=found):
        object_shape_for(positions, 8)
