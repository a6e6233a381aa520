"""Stitching by probe and batch by batch: against loops, one call of everything, and two ranks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from builders import complex_noise, run_python

torch = pytest.importorskip("torch", reason="torch is not installed: stitching")

from ptycho_torch.data.errors import OptionError, OptionTypeError  # noqa: E402
from ptycho_torch.physics import Stitcher, stitch  # noqa: E402

SHAPE = (40, 44)


def scan(seed=0, groups=6, frames=4, N=6):
    rng = np.random.default_rng(seed)
    patches = torch.from_numpy(complex_noise((groups, frames, N, N), seed)).to(torch.complex64)
    positions = torch.from_numpy(rng.uniform(-2, 46, (groups, frames, 2)))
    probe = torch.from_numpy(complex_noise((groups, 3, N, N), seed + 1)).to(torch.complex64)
    return patches, positions, probe


def by_loops(patches, positions, weights, shape):
    """Each value of each patch carried to its four pixels, one at a time."""
    N = patches.shape[-1]
    total, weight = np.zeros(shape, complex), np.zeros(shape)
    for place in np.ndindex(patches.shape):
        x, y = positions[place[:-2]]
        row, column = y + place[-2] - N // 2, x + place[-1] - N // 2
        for i in (int(np.floor(row)), int(np.floor(row)) + 1):
            for j in (int(np.floor(column)), int(np.floor(column)) + 1):
                if 0 <= i < shape[0] and 0 <= j < shape[1]:
                    share = (1 - abs(row - i)) * (1 - abs(column - j)) * weights[place]
                    total[i, j] += share * patches[place]
                    weight[i, j] += share
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)


def test_a_probe_weighs_patches_by_its_light_as_loops_do():
    patches, positions, probe = (array.to(torch.complex128) for array in scan())
    positions = positions.real
    light = (probe.abs() ** 2).sum(dim=1)
    for given, each in [(probe, light[:, None]), (probe[0], light[0]), (probe[:1], light[0])]:
        weights = each.expand(patches.shape)
        expected = by_loops(patches.numpy(), positions.numpy(), weights.numpy(), SHAPE)
        found = stitch(patches, positions, SHAPE, probe=given)
        np.testing.assert_allclose(found, expected, atol=1e-12)
        # The same patches without the axis of groups, one probe for each.
        if len(given) == len(patches):
            flat = patches.flatten(0, 1), positions.flatten(0, 1)
            found = stitch(*flat, SHAPE, probe=given.repeat_interleave(4, dim=0))
            np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("split", [1, 2, 5])
@pytest.mark.parametrize("kind", ["probe", "weights", "plain"])
def test_batches_added_one_by_one_are_stitched_as_all_at_once(split, kind, monkeypatch):
    # Several passes within each batch too.
    monkeypatch.setattr("ptycho_torch.physics.stitching._PIXELS_AT_ONCE", 300)
    patches, positions, probe = scan()
    more = {"probe": {"probe": probe}, "weights": {"weights": probe[:, :1].abs()}, "plain": {}}[
        kind
    ]
    stitcher = Stitcher(SHAPE)
    for start in range(0, len(patches), split):
        part = slice(start, start + split)
        stitcher.add(patches[part], positions[part], **{k: v[part] for k, v in more.items()})
    obj = stitcher.object()
    assert obj.dtype == torch.complex64
    assert obj.shape == SHAPE
    torch.testing.assert_close(obj, stitch(patches, positions, SHAPE, **more), atol=2e-6, rtol=0)
    assert (stitcher.weight() > 0).sum() >= (obj != 0).sum() > 500


def test_stitchers_of_two_halves_merge_into_one_of_all():
    patches, positions, probe = scan()
    one, two, whole = (Stitcher(SHAPE, dtype=torch.complex128) for _ in range(3))
    whole.add(patches, positions, probe=probe)
    one.add(patches[:2], positions[:2], probe=probe[:2])
    two.add(patches[2:], positions[2:], probe=probe[2:])
    assert not torch.allclose(one.object(), whole.object())
    one.merge(two)
    torch.testing.assert_close(one.object(), whole.object(), atol=1e-12, rtol=0)
    torch.testing.assert_close(one.weight(), whole.weight())


def test_double_precision_keeps_what_single_loses():
    """80,000 equal patches of 1/3, whose rounding errors all point the same way."""
    patches = torch.full((4096, 2, 2), 1 / 3 + 0j, dtype=torch.complex128)
    positions = torch.full((4096, 2), 2.0)
    errors = {}
    for dtype in (torch.complex64, torch.complex128):
        stitcher = Stitcher((4, 4), dtype=dtype)
        for _ in range(20):
            stitcher.add(patches, positions, weights=torch.tensor(0.7))
        errors[dtype] = float((stitcher.object()[1, 1] - 1 / 3).abs())
    assert errors[torch.complex128] < 1e-12
    assert 1e-9 < errors[torch.complex64] < 1e-2


def test_a_single_patch_is_added_where_it_lies(monkeypatch):
    monkeypatch.setattr("ptycho_torch.physics.stitching._PIXELS_AT_ONCE", 10)
    patches, positions, _ = scan()
    stitcher = Stitcher(SHAPE)
    stitcher.add(patches[2, 1], positions[2, 1])
    expected = stitch(patches[2, 1], positions[2, 1], SHAPE)
    assert expected.abs().sum() > 0
    torch.testing.assert_close(stitcher.object(), expected)


def test_an_empty_stitcher_is_dark():
    stitcher = Stitcher((5, 7))
    assert torch.equal(stitcher.object(), torch.zeros(5, 7, dtype=torch.complex64))
    stitcher.add(torch.ones(0, 4, 4), torch.ones(0, 2))
    assert stitcher.weight().sum() == 0


def test_an_object_in_place_is_the_same_and_ends_its_stitcher():
    patches, positions, probe = scan()
    stitcher = Stitcher(SHAPE)
    stitcher.add(patches, positions, probe=probe)
    kept = stitcher.object()
    obj = stitcher.object(in_place=True)
    assert torch.equal(obj, kept)
    assert obj.abs().sum() > 0
    for use in (
        lambda: stitcher.add(patches, positions),
        stitcher.object,
        stitcher.weight,
        stitcher.all_reduce,
        lambda: Stitcher(SHAPE).merge(stitcher),
    ):
        with pytest.raises(OptionError, match=r"stitcher is ended by object\(in_place=True\)"):
            use()


def test_nothing_that_is_added_keeps_its_graph():
    patches, positions, _ = scan()
    stitcher = Stitcher(SHAPE)
    stitcher.add(patches.requires_grad_(), positions)
    assert not stitcher.object().requires_grad


@pytest.mark.parametrize("stitching", ["stitch", "Stitcher"])
def test_what_does_not_fit_is_refused_in_one_line(stitching):
    patches, positions, probe = scan()
    adrift = positions.clone()
    adrift[3, 1, 0] = float("nan")
    refused = [
        (OptionError, "one of the two", {"probe": probe, "weights": torch.ones(6, 6)}),
        (OptionError, "probe", {"probe": probe[:4]}),
        (OptionError, "probe", {"probe": probe[0, 0]}),
        (OptionError, "probe", {"probe": probe[..., :5]}),
        (OptionError, "positions", {"positions_px": positions[:, :3]}),
        (OptionError, "positions", {"patches": patches.movedim(1, -1)}),
        (OptionError, "not finite", {"positions_px": adrift}),
        (OptionError, "weights", {"weights": torch.ones(6, 6, 6)}),
        (OptionTypeError, "weights", {"weights": probe[:, :1]}),
        (OptionTypeError, "bfloat16", {"patches": patches.real.bfloat16()}),
    ]
    for error, word, change in refused:
        arguments = {"patches": patches, "positions_px": positions, **change}
        with pytest.raises(error, match=word) as caught:
            if stitching == "stitch":
                stitch(shape=SHAPE, **arguments)
            else:
                Stitcher(SHAPE).add(**arguments)
        assert "\n" not in str(caught.value)


def test_stitchers_of_another_shape_or_precision_are_refused():
    with pytest.raises(OptionError, match="shape and dtype"):
        Stitcher((5, 5)).merge(Stitcher((5, 6)))
    with pytest.raises(OptionError, match="shape and dtype"):
        Stitcher((5, 5)).merge(Stitcher((5, 5), dtype=torch.complex128))
    with pytest.raises(OptionTypeError, match="complex64"):
        Stitcher((5, 5), dtype=torch.float32)


def test_one_process_is_all_of_its_ranks():
    patches, positions, _ = scan()
    stitcher = Stitcher(SHAPE)
    stitcher.add(patches, positions)
    before = stitcher.object()
    stitcher.all_reduce()
    assert torch.equal(stitcher.object(), before)


TWO_RANKS = """
import sys
from pathlib import Path
import torch
from torch import distributed, multiprocessing
sys.path += sys.argv[2:]
from test_stitching import SHAPE, scan
from ptycho_torch.physics import Stitcher

def rank_of(rank, folder):
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    patches, positions, probe = scan()
    stitcher = Stitcher(SHAPE)
    # Parts of unequal size: rank 0 adds one group, rank 1 the other five.
    part = slice(0, 1) if rank == 0 else slice(1, None)
    stitcher.add(patches[part], positions[part], probe=probe[part])
    part = stitcher.object()
    stitcher.all_reduce()
    torch.save({"part": part, "all": stitcher.object()}, f"{folder}/rank{rank}.pt")
    distributed.destroy_process_group()

if __name__ == "__main__":
    multiprocessing.start_processes(rank_of, (sys.argv[1],), nprocs=2, start_method="fork")
"""


@pytest.mark.slow
def test_two_ranks_that_each_add_a_part_have_the_object_of_all(tmp_path):
    result = run_python(TWO_RANKS, tmp_path, *Path(__file__).parents[:2])
    assert result.returncode == 0, result.stderr
    patches, positions, probe = scan()
    expected = stitch(patches, positions, SHAPE, probe=probe)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for rank in ranks:
        assert not torch.allclose(rank["part"], expected, atol=1e-2)
        torch.testing.assert_close(rank["all"], expected, atol=2e-6, rtol=0)
    assert torch.equal(ranks[0]["all"], ranks[1]["all"])


MEMORY = """
import sys
import torch
from ptycho_torch.physics import Stitcher

def resident(what):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))

groups, batch, side, N, C = map(int, sys.argv[1:])
generator = torch.Generator().manual_seed(0)
probe = torch.ones(1, N, N, dtype=torch.complex64)
# Once in small, so that the libraries have their memory: it is the batches' that is measured.
warm = Stitcher((N + 2, N + 2))
warm.add(torch.ones(1, C, N, N, dtype=torch.complex64), torch.full((1, C, 2), N / 2), probe=probe)
warm.object()
open("/proc/self/clear_refs", "w").write("5")
start = resident("VmRSS")
# One buffer: where malloc keeps the place of a former batch is no matter of the stitcher's.
patches = torch.empty(batch, C, N, N, dtype=torch.complex64)
stitcher = Stitcher((side, side))
for first in range(0, groups, batch):
    count = min(batch, groups - first)
    positions = torch.rand(count, C, 2, generator=generator) * (side - N) + N // 2
    torch.view_as_real(patches).uniform_(generator=generator)
    stitcher.add(patches[:count], positions, probe=probe)
obj = stitcher.object(in_place=True)
assert torch.count_nonzero(obj) > 0.9 * obj.numel(), "the object is hardly covered"
print(resident("VmHWM") - start)
"""


def peak_of_stitching(groups, batch, side, N=64, C=4):
    """Bytes above the start, and what they may be: three batches and the object."""
    result = run_python(MEMORY, groups, batch, side, N, C)
    assert result.returncode == 0, result.stderr
    return int(result.stdout), 3 * batch * C * N * N * 8 + side * side * 8


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc says what is resident on Linux")
@pytest.mark.parametrize(("groups", "side"), [(1_500, 800), (1_280, 1_300)])
def test_stitching_takes_three_batches_and_the_object_at_most(groups, side):
    peak, allowed = peak_of_stitching(groups=groups, batch=64, side=side)
    assert peak <= allowed
