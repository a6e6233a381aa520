"""The order is a function of (seed, epoch); ranks and resumption divide it exactly."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: samplers need it")

from torch.utils.data import Dataset  # noqa: E402

from ptycho_torch.batches.sampler import EpochSampler  # noqa: E402


class Sized(Dataset[int]):
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


def visits(size: int, ranks: int, *, epoch: int = 0, consumed: int = 0, **options: object) -> list:
    out = []
    for rank in range(ranks):
        sampler = EpochSampler(Sized(size), num_replicas=ranks, rank=rank, **options)
        sampler.resume(epoch, consumed)
        visited = list(sampler)
        assert consumed or len(visited) == len(sampler)
        out.append(visited)
    return out


def test_order_depends_only_on_seed_and_epoch() -> None:
    first = visits(50, 1, seed=1, epoch=2)
    assert first == visits(50, 1, seed=1, epoch=2)
    assert first != visits(50, 1, seed=1, epoch=3)
    assert first != visits(50, 1, seed=2, epoch=2)
    assert sorted(first[0]) == list(range(50))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [7, 8, 9])
def test_ranks_interleave_to_the_order_of_one_rank(ranks: int, size: int) -> None:
    whole = visits(size, 1, even=False)[0]
    parts = visits(size, ranks, even=False)
    merged = [parts[i % ranks][i // ranks] for i in range(size)]
    assert merged == whole


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_training_ranks_take_equal_steps_and_visit_each_sample_at_most_once(ranks: int) -> None:
    parts = visits(10, ranks, even=True)
    assert len({len(part) for part in parts}) == 1
    flat = [index for part in parts for index in part]
    assert len(flat) == len(set(flat)) == 10 - 10 % ranks


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3)])
def test_resumed_epoch_visits_exactly_the_remaining_samples(before: int, after: int) -> None:
    whole = visits(24, 1)[0]
    consumed = 3 * before
    rest = [i for part in visits(24, after, consumed=consumed, even=False) for i in part]
    assert sorted(rest) == sorted(whole[consumed:])


def test_the_epoch_after_a_resumed_one_is_whole() -> None:
    sampler = EpochSampler(Sized(12), seed=4)
    sampler.resume(1, 5)
    sampler.set_epoch(1)
    assert len(list(sampler)) == 7
    assert len(sampler) == 12
    sampler.set_epoch(2)
    assert len(list(sampler)) == 12


def test_sampler_that_is_told_no_ranks_takes_those_of_a_process_group_that_begins_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampler = EpochSampler(Sized(9), shuffle=False)
    assert len(sampler) == 9
    for name, value in (("is_initialized", True), ("get_world_size", 2), ("get_rank", 1)):
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    assert len(sampler) == sampler.remaining == 4
    assert list(sampler) == [1, 3, 5, 7]
    assert list(EpochSampler(Sized(9), num_replicas=1, rank=0, shuffle=False)) == list(range(9))
