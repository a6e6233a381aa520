"""How far training has come within an epoch, counted in samples.

Another batch size or number of ranks changes how many samples a batch has, so samples are what
counts. Owns the count and its translation to Lightning's counters of batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ptycho_torch.batches.sampler import EpochSampler

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from lightning.pytorch.loops.progress import _ProcessedTracker

    from ptycho_torch.batches.loader import GroupLoader


class EpochProgress:
    """Counts the samples that all ranks together have consumed in the current epoch.

    Attributes
    ----------
    restored
        Where a checkpoint stood, until :meth:`start` takes it: ``epoch`` and ``consumed``.
    """

    def __init__(self) -> None:
        self.restored: dict[str, Any] | None = None
        self._first_epoch = 0
        self._consumed_at_start = 0
        self._batches_at_start = 0
        self._sampler: EpochSampler | None = None
        self._batch_size = 1

    @property
    def epoch(self) -> int:
        """The epoch of the batches that the training loader gives."""
        return 0 if self._sampler is None else self._sampler.begun or 0

    def state(self, trainer: Trainer | None) -> dict[str, int]:
        """Return the epoch that training is in, or starts next, and the samples consumed in it."""
        sampler = self._sampler
        if trainer is None or sampler is None:
            return {"epoch": 0, "consumed": 0}
        epoch, over = sampler.epoch, _epoch_counters(trainer).processed > sampler.epoch
        # Until an epoch begins, Lightning's batch counters are those of the epoch before.
        consumed, ended, begun = sampler.consumed, False, sampler.begun == epoch
        if begun:
            resumed = epoch == self._first_epoch
            done = _batch_counters(trainer).processed
            consumed = (done - self._batches_at_start * resumed) * self._step(sampler)
            consumed += self._consumed_at_start * resumed
            ended = done >= trainer.num_training_batches
        # Once an epoch is over for this run, it is over for any limit and any number of ranks.
        ended = ended or sampler.is_over(consumed)
        # Lightning calls an epoch over that a limit of steps or time cuts short; it is not, unless
        # the model itself skips the rest.
        skipped = begun and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if over and (ended or skipped):
            return {"epoch": epoch + 1, "consumed": 0}
        size = len(sampler.dataset)  # type: ignore[arg-type]
        return {"epoch": epoch, "consumed": size if ended else consumed}

    def start(self, trainer: Trainer | None, loader: GroupLoader) -> None:
        """Point a new training loader at the sample after the last one consumed."""
        sampler = loader.sampler
        assert isinstance(sampler, EpochSampler)
        assert loader.batch_size is not None
        over = 0 if trainer is None else _epoch_counters(trainer).processed
        if self.restored is None and self._sampler is not None:
            here = self.state(trainer)
            # The same trainer goes on after a run that was cut short.
            self.restored = here if here["epoch"] == over - 1 else None
        self._sampler, self._batch_size = sampler, loader.batch_size
        loader.has_place = self.restored is not None
        if self.restored is None and trainer is not None and _inside_epoch(trainer):
            loader.load_state_dict({})
        state, self.restored = self.restored or {"epoch": over, "consumed": 0}, None
        epoch, consumed = int(state["epoch"]), int(state["consumed"])
        batches, step = _batches_of_epoch(trainer, loader), self._step(sampler)
        finished = sampler.is_over(consumed) or consumed >= batches * step
        if not finished:
            sampler.resume(epoch, consumed)
        elif trainer is not None and over == epoch:
            # What remains of the epoch, as its validation, has no batches.
            sampler.resume(epoch, len(sampler.dataset))  # type: ignore[arg-type]
        else:
            sampler.resume(epoch + 1, 0)
        self._first_epoch, self._consumed_at_start = sampler.epoch, sampler.consumed
        left = min(
            -(-sampler.remaining // loader.batch_size), -(-(batches * step - consumed) // step)
        )
        done = batches - (0 if finished else left)
        self._batches_at_start = 0 if finished else done
        if trainer is None or not loader.has_place:
            return
        # Lightning counts batches from the start of the epoch. It must also be told the epoch is
        # over when fewer samples remain than there are ranks.
        if not finished if over > epoch else consumed > 0:
            _go_on_within_epoch(trainer, epoch)
        progress = trainer.fit_loop.epoch_loop.batch_progress
        progress.is_last_batch = finished
        current = _batch_counters(trainer)
        finishing = current.processed - current.completed
        # A step that did not end before the checkpoint was made is done again.
        total = cast("_ProcessedTracker", progress.total)
        total.ready = total.started = total.processed
        current.ready = current.started = current.processed = done
        current.completed = done - finishing

    def _step(self, sampler: EpochSampler) -> int:
        """Samples that all ranks together consume with one batch each."""
        return self._batch_size * sampler.num_replicas


def _batches_of_epoch(trainer: Trainer | None, loader: GroupLoader) -> int:
    """Batches of the loader that the trainer takes before it calls an epoch over."""
    if trainer is None:
        return len(loader)
    limit = trainer.limit_train_batches
    return min(len(loader), limit if isinstance(limit, int) else int(len(loader) * limit))


def _go_on_within_epoch(trainer: Trainer, epoch: int) -> None:
    """Tell Lightning that an epoch goes on.

    A run resumed at the end of an epoch does not count the start of the next, so that a checkpoint
    made within the next says that no epoch is unfinished.
    """
    loop = trainer.fit_loop
    cut_short = max(0, _epoch_counters(trainer).processed - epoch)
    for epochs in (loop.epoch_progress.total, loop.epoch_progress.current):
        counters = cast("_ProcessedTracker", epochs)
        counters.processed -= cut_short
        counters.ready = counters.started = counters.processed + 1
        counters.completed = counters.processed
    if _epoch_counters(trainer).processed == epoch:
        loop.restarting = True


def _inside_epoch(trainer: Trainer) -> bool:
    """Whether the trainer goes on in the middle of an epoch that a checkpoint began."""
    epochs = _epoch_counters(trainer)
    unfinished = epochs.started > epochs.processed
    return trainer.fit_loop.restarting and unfinished and _batch_counters(trainer).processed > 0


def _epoch_counters(trainer: Trainer) -> _ProcessedTracker:
    return cast("_ProcessedTracker", trainer.fit_loop.epoch_progress.current)


def _batch_counters(trainer: Trainer) -> _ProcessedTracker:
    return cast("_ProcessedTracker", trainer.fit_loop.epoch_loop.batch_progress.current)
