"""How far training has come within an epoch, counted in samples.

Another batch size or number of ranks changes how many samples a batch has, so samples are what
counts. Owns the count and its translation to Lightning's batch counters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ptycho_torch.batches.sampler import EpochSampler

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from lightning.pytorch.loops.progress import _ProcessedTracker

    from ptycho_torch.batches.loader import GroupLoader


class EpochProgress:
    """Counts the samples that all ranks together have consumed in the current epoch."""

    def __init__(self) -> None:
        self._restored: tuple[int, int] | None = None
        self._first_epoch = 0
        self._consumed_at_start = 0
        self._batches_at_start = 0
        self._sampler: EpochSampler | None = None
        self._batch_size = 1

    def state(self, trainer: Trainer | None) -> dict[str, int]:
        """Return the epoch that started last and the samples consumed in it."""
        sampler = self._sampler
        if trainer is None or sampler is None:
            epoch, consumed = self._restored or (0, 0)
            return {"epoch": epoch, "consumed": consumed}
        resumed = sampler.epoch == self._first_epoch
        batches = _batch_counters(trainer).processed
        if resumed:
            batches -= self._batches_at_start
        consumed = batches * self._batch_size * sampler.num_replicas
        if resumed:
            consumed += self._consumed_at_start
        # Once an epoch is over for the ranks of this run, it is over for any number of ranks.
        size = len(sampler.dataset)  # type: ignore[arg-type]
        return {"epoch": sampler.epoch, "consumed": size if sampler.is_over(consumed) else consumed}

    def restore(self, state: dict[str, int]) -> None:
        """Remember where a checkpoint stood, for the next :meth:`start`."""
        self._restored = (int(state["epoch"]), int(state["consumed"]))

    def start(self, trainer: Trainer | None, loader: GroupLoader) -> None:
        """Point a new training loader at the sample after the last one consumed."""
        sampler = loader.sampler
        assert isinstance(sampler, EpochSampler)
        assert loader.batch_size is not None
        self._sampler, self._batch_size = sampler, loader.batch_size
        epoch, consumed = self._restored or (0, 0)
        self._restored = None
        finished = sampler.is_over(consumed)
        sampler.resume(epoch + finished, 0 if finished else consumed)
        self._first_epoch, self._consumed_at_start = sampler.epoch, sampler.consumed
        left = 0 if finished else -(-sampler.remaining // loader.batch_size)
        done = len(loader) - left
        self._batches_at_start = 0 if finished else done
        if trainer is None or consumed == 0:
            return
        # Lightning counts batches from the start of the epoch. It must also be told the epoch is
        # over when fewer samples remain than there are ranks.
        progress = trainer.fit_loop.epoch_loop.batch_progress
        progress.is_last_batch = finished
        current = _batch_counters(trainer)
        finishing = current.processed - current.completed
        current.ready = current.started = current.processed = done
        current.completed = done - finishing


def _batch_counters(trainer: Trainer) -> _ProcessedTracker:
    return cast("_ProcessedTracker", trainer.fit_loop.epoch_loop.batch_progress.current)
