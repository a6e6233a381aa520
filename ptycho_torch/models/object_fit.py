"""Automatic-differentiation ptychography: the object and the probe are the parameters.

Owns the fit of one scan by gradient descent on amplitudes. Takes batches as they come; it can
only work if X, positions, probe and scale of a batch fit together. Knows no file, no grouping.
"""

from __future__ import annotations

import logging
import math
from typing import Any, Literal, Protocol, cast

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn import Parameter
from torchmetrics import Metric

from ptycho_torch.batches.batch import PtychoBatch
from ptycho_torch.data.config import check_choice
from ptycho_torch.data.errors import OptionError, ScanFileError
from ptycho_torch.physics import diffract, illuminate, object_patches

logger = logging.getLogger(__name__)

Schedule = Literal["constant", "cosine"]


class ScanSource(Protocol):
    """What a datamodule tells about its scan."""

    @property
    def object_shape(self) -> tuple[int, int]:
        """(H, W) of an object that holds every patch, pixels."""

    @property
    def initial_probe(self) -> Tensor:
        """Probe guess (P, N, N), complex64, sqrt(counts)."""

    def dataset(self, stage: Literal["train"]) -> Any:
        """The training dataset; its ``scans`` are the scans."""


class FourierError(Metric):
    """Relative distance of frames, sqrt(sum (A - X)^2 / sum X^2), over all batches and ranks."""

    full_state_update = False
    residual: Tensor
    energy: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("residual", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("energy", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, residual: Tensor, energy: Tensor) -> None:
        """Add a batch's sum (A - X)^2 and sum X^2."""
        self.residual += residual.detach()
        self.energy += energy.detach()

    def compute(self) -> Tensor:
        """The error of everything added so far."""
        return torch.sqrt(self.residual / self.energy)


class ObjectFit(pl.LightningModule):
    """Fit object and probe of one scan to its frames with Adam.

    The loss of a batch is its squared Fourier error, sum (A - X)^2 / sum X^2, and the probe is
    kept in units of its own root mean square: learning rates are free of counts and frame size.

    Parameters
    ----------
    learning_rate
        Step of Adam on the object, whose modulus starts at 1.
    probe_learning_rate
        Step on the probe, in units of its root mean square; None: as ``learning_rate``.
    refine_probe
        Fit the probe too. If False the probe that comes with each batch is used as it is.
    schedule
        ``"constant"``, or ``"cosine"``: learning rates fall to 0 at the last step, which gives a
        lower error on measured scans.
    object_shape
        (H, W) in pixels; None: the datamodule's, the smallest that holds every patch.

    Raises
    ------
    OptionError
        An option is out of range.
    """

    obj: Parameter | None
    probe: Parameter | None
    probe_unit: Tensor | None

    def __init__(
        self,
        learning_rate: float = 0.05,
        probe_learning_rate: float | None = None,
        refine_probe: bool = True,
        schedule: Schedule = "constant",
        object_shape: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        for name, rate in (
            ("learning_rate", learning_rate),
            ("probe_learning_rate", probe_learning_rate),
        ):
            if rate is not None and not rate > 0:
                raise OptionError(name, rate, "a number above 0")
        check_choice("schedule", schedule, Schedule)
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        self.probe_learning_rate = probe_learning_rate or learning_rate
        self.refine_probe = refine_probe
        self.schedule = schedule
        self.object_shape = object_shape
        # Shapes are known when a scan is: see initialize and on_load_checkpoint.
        self.register_parameter("obj", None)
        self.register_parameter("probe", None)
        self.register_buffer("probe_unit", None)
        self.fourier_errors = torch.nn.ModuleDict(
            {f"{stage}_error": FourierError() for stage in ("train", "val", "test")}
        )

    def initialize(self, object_shape: tuple[int, int], probe: Tensor) -> None:
        """Start from a flat object of modulus 1 and the given probe.

        Parameters
        ----------
        object_shape
            (H, W), pixels.
        probe
            (P, N, N), complex, sqrt(counts).
        """
        probe = probe.detach().to(self.device, torch.complex64)
        unit = probe.abs().square().sum(dim=0).mean().sqrt()
        if not (torch.isfinite(unit) and unit > 0):
            raise OptionError("probe", f"of root mean square {float(unit)}", "finite and above 0")
        flat = torch.ones(object_shape, dtype=torch.complex64, device=self.device)
        self._allocate(torch.view_as_real(flat), torch.view_as_real(probe / unit), unit)

    def _allocate(self, obj: Tensor, probe: Tensor, probe_unit: Tensor) -> None:
        # Real views, last axis (real, imaginary): optimisers and checkpoints handle real tensors
        # everywhere, complex ones not everywhere.
        self.obj = Parameter(obj.clone())
        self.probe = Parameter(probe.clone(), requires_grad=self.refine_probe)
        self.probe_unit = probe_unit.clone()

    def setup(self, stage: str) -> None:
        """Take shapes and the first probe from the trainer's datamodule, once."""
        if self.obj is not None:
            return
        source = cast("ScanSource | None", getattr(self.trainer, "datamodule", None))
        if source is None or not hasattr(source, "initial_probe"):
            raise OptionError(
                "ObjectFit",
                "without a scan",
                "a trainer with a PtychoDataModule",
                action="Or call initialize(object_shape, probe) before fit",
            )
        scans = source.dataset("train").scans
        if len(scans) != 1:
            raise OptionError(
                "train",
                f"{len(scans)} scans",
                "one: ObjectFit has one object",
                action="Fit each scan in a run of its own",
            )
        shape = source.object_shape if self.object_shape is None else self.object_shape
        probe = source.initial_probe
        self.initialize((int(shape[0]), int(shape[1])), probe)
        start = min(float(scans[0].xcoords.min()), float(scans[0].ycoords.min()))
        missing = probe.shape[-1] // 2 - start
        if missing > 0:
            logger.warning(
                "%s: positions start at %.1f px, so patches reach over the object's edge, where "
                "it is 0; add at least %.1f px to xcoords and ycoords to fit all of it",
                scans[0].path or "scan in memory",
                start,
                missing,
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make room for the checkpoint's object and probe: no datamodule is needed."""
        state, names = checkpoint["state_dict"], ("obj", "probe", "probe_unit")
        for name in names:
            if name not in state:
                path = None if self._trainer is None else self._trainer.ckpt_path
                raise ScanFileError(
                    "checkpoint", f"without {name}", "a checkpoint of ObjectFit", file=path
                )
        self._allocate(*(state[name].to(self.device) for name in names))

    def reconstruction(self) -> tuple[Tensor, Tensor]:
        """Object (H, W) and probe (P, N, N), complex64, detached; the probe in sqrt(counts).

        The probe is the one the fit refines; with ``refine_probe=False`` it stays the first.
        """
        obj, probe = self._object_and_probe()
        return obj.detach().clone(), probe.detach().clone()

    def _object_and_probe(self) -> tuple[Tensor, Tensor]:
        if self.obj is None or self.probe is None or self.probe_unit is None:
            raise OptionError("ObjectFit", "not initialized", "a fit, a checkpoint or initialize()")
        return torch.view_as_complex(self.obj), torch.view_as_complex(self.probe) * self.probe_unit

    def forward(self, batch: PtychoBatch) -> Tensor:
        """Modelled frames (B, C, N, N) in the units of ``batch.X``."""
        obj, probe = self._object_and_probe()
        if not self.refine_probe:
            probe = batch.probe
        patches = object_patches(obj, batch.positions, batch.X.shape[1])
        amplitude = diffract(illuminate(probe, patches))
        return batch.scale[:, None, None, None] * amplitude

    def _step(self, batch: PtychoBatch, stage: str) -> Tensor:
        measured = batch.channels_first()
        residual = (self(batch) - measured).square().sum()
        energy = measured.square().sum()
        error = cast("FourierError", self.fourier_errors[f"{stage}_error"])
        error(residual, energy)
        loss: Tensor = residual / energy
        size = len(measured)
        self.log(f"{stage}_loss", loss, on_step=False, on_epoch=True, batch_size=size)
        self.log(
            f"{stage}_fourier_error",
            error,
            on_step=False,
            on_epoch=True,
            batch_size=size,
            prog_bar=True,
        )
        return loss

    def training_step(self, batch: PtychoBatch, batch_idx: int) -> Tensor:
        """Squared Fourier error of a batch of training groups."""
        return self._step(batch, "train")

    def validation_step(self, batch: PtychoBatch, batch_idx: int) -> Tensor:
        """The same on validation groups; parts of the object no training frame saw stay flat."""
        return self._step(batch, "val")

    def test_step(self, batch: PtychoBatch, batch_idx: int) -> Tensor:
        """The same on test groups."""
        return self._step(batch, "test")

    def predict_step(self, batch: PtychoBatch, batch_idx: int) -> dict[str, Tensor]:
        """Reconstructed patches and where they lie.

        Returns
        -------
        dict
            ``patches`` (B, C, N, N) complex64, ``positions_px`` (B, C, 2) float64 in the order
            (x, y), ``nn_indices`` (B, C) int64: what ``physics.stitch`` takes.
        """
        obj, _ = self._object_and_probe()
        positions = batch.positions
        patches = object_patches(obj, positions, batch.X.shape[1])
        return {"patches": patches, "positions_px": positions, "nn_indices": batch.nn_indices}

    def configure_optimizers(self) -> Any:
        """Adam on object and probe; with ``schedule="cosine"`` a learning rate for every step."""
        groups = [{"params": [self.obj], "lr": self.learning_rate}]
        if self.refine_probe:
            groups.append({"params": [self.probe], "lr": self.probe_learning_rate})
        optimizer = torch.optim.Adam(groups)
        if self.schedule == "constant":
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise OptionError(
                "schedule", "'cosine' in a fit without end", "max_epochs or max_steps"
            )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=int(steps))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
