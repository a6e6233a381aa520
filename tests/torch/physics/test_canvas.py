"""Canvases of groups against loops in NumPy, finite differences, and each other."""

from __future__ import annotations

import re

import numpy as np
import pytest
from builders import complex_noise
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed: the forward model")

from ptycho_torch import simulate_scan  # noqa: E402
from ptycho_torch.batches.dataset import PtychoDataset  # noqa: E402
from ptycho_torch.data.errors import OptionError, OptionTypeError  # noqa: E402
from ptycho_torch.physics import cut, diffract, group_canvas, illuminate, stitch  # noqa: E402


def taps(offset, place):
    """Canvas pixels, in one dimension, that a patch pixel reads, and how much of each."""
    whole = int(np.floor(offset))
    return [(place + whole, 1 - (offset - whole)), (place + whole + 1, offset - whole)]


def loops(patches, offsets, weights, shape):
    """Each value of each patch carried to its four pixels, one at a time."""
    groups, frames, N, _ = patches.shape
    total, weight = np.zeros((groups, *shape), complex), np.zeros((groups, *shape))
    for b, c, row, column in np.ndindex(groups, frames, N, N):
        x, y = offsets[b, c]
        for i, share_y in taps(y, row - N // 2 + shape[0] // 2):
            for j, share_x in taps(x, column - N // 2 + shape[1] // 2):
                if 0 <= i < shape[0] and 0 <= j < shape[1]:
                    share = share_x * share_y * weights[b, c, row, column]
                    total[b, i, j] += share * patches[b, c, row, column]
                    weight[b, i, j] += share
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)


def cut_by_loops(canvas, offsets, N):
    groups, frames = offsets.shape[:2]
    shape = canvas.shape[1:]
    patches = np.zeros((groups, frames, N, N), complex)
    for b, c, row, column in np.ndindex(patches.shape):
        x, y = offsets[b, c]
        for i, share_y in taps(y, row - N // 2 + shape[0] // 2):
            for j, share_x in taps(x, column - N // 2 + shape[1] // 2):
                if 0 <= i < shape[0] and 0 <= j < shape[1]:
                    patches[b, c, row, column] += share_x * share_y * canvas[b, i, j]
    return patches


def group(seed=0, groups=3, frames=4, N=5, reach=3.0):
    rng = np.random.default_rng(seed)
    offsets = rng.uniform(-reach, reach, (groups, frames, 2))
    return complex_noise((groups, frames, N, N), seed), offsets


@pytest.mark.parametrize("N", [4, 5])
@pytest.mark.parametrize("shape", [(12, 15), (9, 6)])
def test_canvas_is_the_weighted_mean_that_loops_give(N, shape):
    patches, offsets = group(N=N)
    weights = np.random.default_rng(1).uniform(0.1, 2, patches.shape)
    canvas = group_canvas(*map(torch.from_numpy, (patches, offsets)),
                          weights=torch.from_numpy(weights), size=shape)  # fmt: skip
    np.testing.assert_allclose(canvas, loops(patches, offsets, weights, shape), atol=1e-12)


@pytest.mark.parametrize("N", [4, 5])
@pytest.mark.parametrize("shape", [(12, 15), (9, 6)])
def test_cut_is_the_interpolation_that_loops_give(N, shape):
    _, offsets = group(N=N)
    canvas = complex_noise((3, *shape), 2)
    patches = cut(torch.from_numpy(canvas), torch.from_numpy(offsets), N)
    np.testing.assert_allclose(patches, cut_by_loops(canvas, offsets, N), atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 5), (1, 1, 5, 5), (3, 1, 5, 5), (1, 4, 5, 5), (3, 4, 1, 1)])
def test_weights_broadcast_to_the_patches(shape):
    patches, offsets = map(torch.from_numpy, group())
    weights = torch.rand(shape, dtype=torch.float64) + 0.1
    canvas = group_canvas(patches, offsets, weights=weights, size=12)
    full = group_canvas(patches, offsets, weights=weights.expand(patches.shape).clone(), size=12)
    assert torch.equal(canvas, full)
    assert not torch.allclose(canvas, group_canvas(patches, offsets, size=12))


def test_channels_last_are_the_same_numbers_in_another_order():
    patches, offsets = map(torch.from_numpy, group())
    weights = torch.rand(3, 1, 5, 5, dtype=torch.float64)
    canvas = group_canvas(patches, offsets, weights=weights, size=12)
    last, light = patches.movedim(1, -1), weights.movedim(1, -1)
    assert torch.equal(group_canvas(last, offsets, weights=light, size=12, layout="NHWC"), canvas)
    assert torch.equal(
        cut(canvas, offsets, 5, layout="NHWC"), cut(canvas, offsets, 5).movedim(1, -1)
    )


@settings(max_examples=40, deadline=None)
@given(data=st.data(), N=st.integers(1, 6), groups=st.integers(1, 3), frames=st.integers(1, 5))
def test_cut_gives_back_what_was_laid_at_whole_offsets(data, N, groups, frames):
    size = groups * frames * 2
    places = data.draw(st.lists(st.integers(-4, 4), min_size=size, max_size=size))
    offsets = torch.tensor(places, dtype=torch.float64).reshape(groups, frames, 2)
    specimen = torch.from_numpy(complex_noise((groups, 16, 16)))
    patches = cut(specimen, offsets, N)
    canvas = group_canvas(patches, offsets)
    torch.testing.assert_close(cut(canvas, offsets, N), patches, atol=1e-12, rtol=0)


@settings(max_examples=60, deadline=None)
@given(
    eighths=st.lists(st.tuples(*[st.integers(-72, 72)] * 2), min_size=1, max_size=5),
    N=st.integers(1, 7),
)
def test_the_smallest_canvas_holds_every_patch_and_one_pixel_less_does_not(eighths, N):
    where = torch.tensor([eighths], dtype=torch.float64) / 8
    ones = torch.ones(1, len(eighths), N, N, dtype=torch.complex128)
    side = group_canvas(ones, where).shape[-1]
    # A patch that lies inside as a whole reads nothing but ones.
    inside = cut(torch.ones(1, side, side, dtype=torch.complex128), where, N)
    assert inside.real.min() > 1 - 1e-12
    smaller = cut(torch.ones(1, side - 1, side - 1, dtype=torch.complex128), where, N)
    assert side == 1 or smaller.real.min() < 1 - 1e-9


def test_a_group_does_not_know_the_others_of_its_batch():
    patches, offsets = map(torch.from_numpy, group())
    patches[1] *= 1e6
    weights = torch.ones(3, 1, 5, 5, dtype=torch.float64)
    weights[1] = 1e20
    canvas = group_canvas(patches, offsets, weights=weights, size=12)
    for b in range(3):
        one = group_canvas(patches[b, None], offsets[b, None], weights=weights[b, None], size=12)
        assert torch.equal(canvas[b], one[0])


def test_canvas_of_one_group_is_what_stitch_makes_of_it():
    patches, offsets = map(torch.from_numpy, group(groups=1))
    canvas = group_canvas(patches, offsets, size=(12, 14))
    positions = offsets + torch.tensor([7.0, 6.0], dtype=torch.float64)
    torch.testing.assert_close(canvas[0], stitch(patches, positions, (12, 14)))


@pytest.mark.slow
def test_gradients_of_canvas_and_cut_are_those_of_finite_differences():
    patches, offsets = (torch.from_numpy(a).requires_grad_() for a in group(0, 2, 2, 3, 1.5))
    weights = (torch.rand(2, 1, 3, 3, dtype=torch.float64) + 0.5).requires_grad_()

    def lay(p, o, w):
        return group_canvas(p, o, weights=w, size=7)

    assert torch.autograd.gradcheck(lay, (patches, offsets, weights))
    canvas = torch.from_numpy(complex_noise((2, 6, 7))).requires_grad_()
    assert torch.autograd.gradcheck(lambda c, o: cut(c, o, 3), (canvas, offsets))


@pytest.mark.slow
def test_the_whole_chain_has_the_gradient_of_finite_differences():
    patches, offsets = (torch.from_numpy(a) for a in group(0, 2, 2, 3, 1.5))
    patches.requires_grad_()
    probe = torch.from_numpy(complex_noise((2, 2, 3, 3), 1)).requires_grad_()

    def frames(p, q):
        light = q.abs().square().sum(dim=1, keepdim=True)
        canvas = group_canvas(p, offsets, weights=light, size=7)
        return diffract(illuminate(q, cut(canvas, offsets, 3)))

    assert torch.autograd.gradcheck(frames, (patches, probe))


def test_offsets_of_a_batch_lay_its_true_patches_on_one_specimen(tmp_path):
    scan = simulate_scan(n_frames=60, N=16, seed=1)
    dataset = PtychoDataset(scan, patch_positions="scan", ground_truth="object", cache="off")
    batch = dataset[[0, 5, 9]]
    offsets = -batch.local_offsets[:, 0].mT
    canvas = group_canvas(batch.Y, offsets, layout="NHWC")
    again = cut(canvas, offsets, 16, layout="NHWC")
    rough = cut(canvas, -offsets, 16, layout="NHWC")

    def error(guess):
        return float((guess - batch.Y).abs().square().mean() / batch.Y.abs().var())

    assert error(again) < 0.1 * min(error(rough), error(torch.ones_like(again)))


def test_autocast_leaves_complex_numbers_as_they_are():
    patches, offsets = map(torch.from_numpy, group())
    patches = patches.to(torch.complex64)
    plain = group_canvas(patches, offsets, size=12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        canvas = group_canvas(patches, offsets, size=12)
        again = cut(canvas, offsets, 5)
        frames = diffract(illuminate(torch.ones(1, 5, 5, dtype=torch.complex64), again))
    assert canvas.dtype == again.dtype == torch.complex64
    assert frames.dtype == torch.float32
    assert torch.equal(canvas, plain)


@pytest.mark.parametrize("layout, other", [("NCHW", "NHWC"), ("NHWC", "NCHW")])
def test_patches_in_the_other_layout_are_refused_with_its_name(layout, other):
    patches, offsets = map(torch.from_numpy, group())
    wrong = patches.movedim(1, -1) if layout == "NCHW" else patches
    with pytest.raises(OptionError, match=re.escape(f'Type: layout="{other}"')) as caught:
        group_canvas(wrong, offsets, layout=layout)
    assert "\n" not in str(caught.value)
    assert str(tuple(wrong.shape)) in str(caught.value)


@pytest.mark.parametrize("size", [None, 12])
def test_arguments_that_do_not_fit_are_refused(size):
    patches, offsets = map(torch.from_numpy, group())
    refused = [
        (OptionError, "patches", {"patches": patches[:2]}),
        (OptionError, "patches", {"patches": patches[0]}),
        (OptionError, "layout", {"layout": "CHWN"}),
        (OptionError, "local_offsets", {"offsets": offsets.mT[:, None]}),
        (OptionError, "offsets", {"offsets": offsets.long()}),
        (OptionError, "weights", {"weights": torch.ones(3, 5, 5)}),
        (OptionError, "weights", {"weights": torch.ones(5, 4)}),
        (OptionTypeError, "weights", {"weights": torch.ones(5, 5) + 0j}),
        (OptionTypeError, "bfloat16", {"patches": patches.real.bfloat16()}),
    ]
    for error, word, change in refused:
        arguments = {"patches": patches, "offsets": offsets, "size": size, **change}
        with pytest.raises(error, match=word) as caught:
            group_canvas(**arguments)
        assert "\n" not in str(caught.value)


def test_cut_refuses_what_does_not_fit():
    _, offsets = map(torch.from_numpy, group())
    for canvas, layout in [(torch.ones(2, 9, 9), "NCHW"), (torch.ones(9, 9), "NCHW"),
                           (torch.ones(3, 9, 9), "nchw")]:  # fmt: skip
        with pytest.raises(OptionError):
            cut(canvas, offsets, 5, layout=layout)
    with pytest.raises(OptionTypeError, match="float16"):
        cut(torch.ones(3, 9, 9).half(), offsets, 5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_no_canvas_is_as_large_as_an_offset_that_is_no_number(bad):
    patches, offsets = map(torch.from_numpy, group())
    offsets[1, 2, 0] = bad
    with pytest.raises(OptionError, match="not finite"):
        group_canvas(patches, offsets)
