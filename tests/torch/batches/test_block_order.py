"""Order by blocks: every sample once, few blocks at a time, exact for ranks and after a stop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: samplers need it")

from torch.utils.data import Dataset  # noqa: E402

from ptycho_torch import PtychoDataModule, simulate_scan  # noqa: E402
from ptycho_torch.batches.blocks import AHEAD, Blocks  # noqa: E402
from ptycho_torch.batches.epoch_order import epoch_order  # noqa: E402
from ptycho_torch.batches.sampler import EpochSampler  # noqa: E402
from ptycho_torch.data.errors import OptionError  # noqa: E402

SIZE, LENGTH, MIXED = 3000, 7, 64
STORED = np.random.default_rng(5).permutation(SIZE)
BLOCKS = Blocks(STORED, LENGTH, MIXED, read_soon=len)


class Sized(Dataset[int]):
    def __len__(self) -> int:
        return SIZE


def order(epoch: int, seed: int = 0) -> np.ndarray:
    return epoch_order(SIZE, seed, epoch, shuffle=True, blocks=BLOCKS)


@pytest.mark.parametrize("epoch", range(3))
def test_every_epoch_visits_each_sample_once_in_an_order_of_its_own(epoch: int) -> None:
    assert sorted(order(epoch)) == list(range(SIZE))
    assert np.array_equal(order(epoch), order(epoch))
    assert not np.array_equal(order(epoch), order(epoch + 1))
    assert not np.array_equal(order(epoch), order(epoch, seed=1))


def test_samples_visited_together_are_of_few_blocks() -> None:
    block_of = np.empty(SIZE, int)
    block_of[STORED] = np.arange(SIZE) // LENGTH
    visited = block_of[order(0)]
    begun = [int(np.flatnonzero(visited == block)[0]) for block in np.unique(visited)]
    ended = [int(np.flatnonzero(visited == block)[-1]) for block in np.unique(visited)]
    still_open = [
        sum(first <= at <= last for first, last in zip(begun, ended, strict=True))
        for at in range(SIZE)
    ]
    assert max(still_open) <= MIXED + 2
    # They are mixed, and drawn from everywhere.
    assert np.median(still_open) > MIXED // 2
    assert (np.diff(visited) == 0).mean() < 0.1
    assert np.ptp(order(0)[: MIXED * LENGTH]) > SIZE // LENGTH // 2


@pytest.mark.parametrize(("ranks", "consumed"), [(1, 0), (2, 0), (1, 1001), (4, 600)])
def test_every_block_is_asked_for_once_before_its_samples(ranks: int, consumed: int) -> None:
    asked: list[np.ndarray] = []
    blocks = Blocks(STORED, LENGTH, MIXED, asked.append)
    sampler = EpochSampler(Sized(), num_replicas=ranks, rank=ranks - 1, even=False, blocks=blocks)
    sampler.resume(2, consumed)
    met: set[int] = set()
    for sample in sampler:
        so_far = {int(n) for block in asked for n in block}
        assert sample in so_far
        met.add(next(n for n, block in enumerate(asked) if sample in block))
        # Not long before: what is read too soon is gone before it is visited.
        assert len(asked) <= len(met) + AHEAD
    assert len(np.concatenate(asked)) == len({int(n) for block in asked for n in block})
    assert len(met) == len(asked)


def test_fewer_samples_than_a_block_and_none_are_orders_too() -> None:
    few = Blocks(np.arange(3), 10, MIXED, read_soon=len)
    assert sorted(epoch_order(3, 0, 0, shuffle=True, blocks=few)) == [0, 1, 2]
    nothing = Blocks(np.arange(0), 10, MIXED, read_soon=len)
    assert len(epoch_order(0, 0, 0, shuffle=True, blocks=nothing)) == 0


@pytest.mark.parametrize(("ranks", "consumed"), [(1, 0), (2, 0), (3, 0), (2, 1001), (4, 600)])
def test_ranks_share_the_order_and_go_on_exactly(ranks: int, consumed: int) -> None:
    parts = []
    for rank in range(ranks):
        sampler = EpochSampler(Sized(), num_replicas=ranks, rank=rank, even=False, blocks=BLOCKS)
        sampler.resume(2, consumed)
        parts.append(list(sampler))
    left = SIZE - consumed
    merged = [parts[i % ranks][i // ranks] for i in range(left)]
    assert merged == order(2)[consumed:].tolist()


def loaded(data: PtychoDataModule) -> list[int]:
    data.setup("fit")
    return [int(n) for batch in data.train_dataloader() for n in batch.nn_indices[:, 0]]


def test_data_module_visits_blocks_of_neighbouring_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptycho_torch.batches.blocks.BLOCK_BYTES", 4 * 16 * 16 * 4)
    monkeypatch.setattr("ptycho_torch.batches.blocks.FEWEST_MIXED", 2)
    monkeypatch.setattr("ptycho_torch.batches.blocks.OPEN_BYTES", 0)
    path = simulate_scan(n_frames=400, N=16, seed=1).to_file(tmp_path / "scan.npz")
    options = {"split": "none", "ground_truth": "none", "batch_size": 8}
    drawn = {
        kind: loaded(PtychoDataModule(path, order=kind, **options))
        for kind in ("samples", "blocks")
    }
    assert sorted(drawn["samples"]) == sorted(drawn["blocks"])
    kept = PtychoDataModule(path, order="blocks", **options)
    assert loaded(kept) == drawn["blocks"]
    numbers = kept.dataset("train").index.nn_indices.min(axis=1)
    stored = kept.dataset("train").blocks().as_stored
    assert (np.diff(numbers[stored]) >= 0).all()
    assert kept.dataset("train").blocks().length == 4


def test_checkpoint_of_another_order_is_refused(tmp_path: Path) -> None:
    scan = simulate_scan(n_frames=40, N=16, seed=1)
    blocks = PtychoDataModule(scan, order="blocks", split="none", ground_truth="none")
    blocks.setup("fit")
    state = blocks.state_dict()
    other = PtychoDataModule(scan, split="none", ground_truth="none")
    with pytest.raises(OptionError, match="order of the data is blocks; expected samples"):
        other.load_state_dict(state)
    blocks.load_state_dict(state)
    with pytest.raises(OptionError, match="order of the data is samples; expected blocks"):
        blocks.load_state_dict({"seed": 0, "epoch": 1, "consumed": 20})  # as version 0.2.0 wrote it
    blocks.load_state_dict({})
    with pytest.raises(OptionError, match="order"):
        PtychoDataModule(scan, order="pools")  # type: ignore[arg-type]
