"""Automatic-differentiation ptychography: the object and the probe are the parameters.

Owns the fit of one scan by gradient descent on amplitudes. Takes batches as they come: it works
only if X, positions, probe and scale of a batch belong together. Knows no file and no grouping.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from ptycho_torch.batches.batch import PtychoBatch
from ptycho_torch.batches.simulated_scans import SimulatedScans
from ptycho_torch.data.config import check_choice, check_integer
from ptycho_torch.data.errors import OptionError, ScanFileError, naming
from ptycho_torch.data.initial_probe import add_modes, is_average_pattern
from ptycho_torch.data.plausibility import SMALLEST_SPAN_PX
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.datamodule import PtychoDataModule
from ptycho_torch.fourier_error import fourier_sums
from ptycho_torch.models.error_metric import LoggedSteps
from ptycho_torch.models.far_field import require_far_field
from ptycho_torch.models.probe_search import search_probe
from ptycho_torch.models.schedules import Schedule, scheduled
from ptycho_torch.models.starting_point import Start, is_path, start_of
from ptycho_torch.physics import diffract, illuminate, object_patches

logger = logging.getLogger(__name__)

FirstProbe = Literal["scan", "initial"]


class ObjectFit(pl.LightningModule):
    """Fit object and probe of one scan to its frames with Adam.

    The loss of a batch is its squared Fourier error, and the probe is a multiple of its own root
    mean square: learning rates depend on neither counts nor frame size.

    Parameters
    ----------
    learning_rate
        Step of Adam on the object, whose modulus starts at 1.
    probe_learning_rate
        Step on the probe, in units of its root mean square; None: as ``learning_rate``.
    refine_probe
        Fit the probe too. If False, the fit uses the probe of each batch as it is.
    schedule
        ``"constant"``; ``"cosine"``: learning rates fall to 0 at the last step, which lowers the
        error on measured scans; or ``"stages"``: 0.3 of them after half of the steps, 0.1 after
        0.8.
    object_shape
        (H, W) in pixels; None takes the datamodule's, the smallest that holds every patch.
    n_modes
        P, the number of incoherent probe modes; those that the scan does not carry are added,
        weak and orthogonal to each other. None: as many as the scan carries.
    probe
        What the fit starts from: ``"scan"``, the scan's probe, or ``"initial"``, the average
        pattern at a defocus that short fits find. A scan read with ``probe="initial"`` has no
        defocus of its own, so for it both mean the same.
    initial_object
        What the object starts from, e.g. a network's prediction: (H, W) complex, or a file that
        ``fit`` or ``predict`` wrote; where it is 0 the fit starts flat. None: flat throughout.
    initial_probe
        The same of the probe, (P, N, N) or (N, N), sqrt(counts); None: as ``probe`` says.

    Raises
    ------
    OptionError
        An option is out of range.
    """

    obj: Parameter | None
    probe: Parameter | None
    probe_unit: Tensor | None
    mean_photons: Tensor

    def __init__(
        self,
        learning_rate: float = 0.05,
        probe_learning_rate: float | None = None,
        refine_probe: bool = True,
        schedule: Schedule = "constant",
        object_shape: tuple[int, int] | None = None,
        n_modes: int | None = None,
        probe: FirstProbe = "scan",
        initial_object: Start = None,
        initial_probe: Start = None,
    ) -> None:
        super().__init__()
        for name, rate in (
            ("learning_rate", learning_rate),
            ("probe_learning_rate", probe_learning_rate),
        ):
            if rate is not None and not rate > 0:
                raise OptionError(name, rate, "a number above 0")
        check_choice("schedule", schedule, Schedule)
        check_integer("n_modes", n_modes, minimum=1, optional=True)
        check_choice("probe", probe, FirstProbe)
        if not refine_probe and (n_modes is not None or probe == "initial"):
            found = "False beside n_modes or probe='initial'"
            raise OptionError("refine_probe", found, "True: such a probe has to be fitted")
        if initial_probe is not None and probe == "initial":
            raise OptionError("initial_probe", "given beside probe='initial'", "one of the two")
        starts = {"object": initial_object, "probe": initial_probe}
        # An array belongs to this fit; a checkpoint has what became of it.
        arrays = [f"initial_{name}" for name, given in starts.items() if not is_path(given)]
        self.save_hyperparameters(ignore=arrays)
        self._starts = {name: start_of(name, given) for name, given in starts.items()}
        self.learning_rate = learning_rate
        self.probe_learning_rate = probe_learning_rate or learning_rate
        self.refine_probe = refine_probe
        self.schedule = schedule
        self.object_shape = object_shape
        self.n_modes = n_modes
        self.first_probe = probe
        # Shapes wait for a scan or a checkpoint: initialize and on_load_checkpoint set them.
        self.register_parameter("obj", None)
        self.register_parameter("probe", None)
        self.register_buffer("probe_unit", None)
        # What the probe's light is measured in; 0: every frame has the probe's own.
        self.register_buffer("mean_photons", torch.zeros((), dtype=torch.float64))
        self.steps = LoggedSteps()

    def initialize(self, object_shape: tuple[int, int], probe: Tensor) -> None:
        """Start from ``initial_object``, or a flat one of modulus 1, and the given probe.

        Parameters
        ----------
        object_shape
            (H, W), pixels.
        probe
            (P, N, N), complex, sqrt(counts); modes up to ``n_modes`` are added.

        Raises
        ------
        OptionError
            The probe is zero, or not finite, or has more modes than ``n_modes``;
            ``initial_object`` or ``initial_probe`` is of another size.
        """
        probe = self._started("probe", probe)
        if self.n_modes is not None:
            probe = _with_modes(probe, self.n_modes)
        probe = probe.detach().to(self.device, torch.complex64)
        unit = probe.abs().square().sum(dim=0).mean().sqrt()
        if not (torch.isfinite(unit) and unit > 0):
            raise OptionError("probe", f"of root mean square {float(unit)}", "finite and above 0")
        flat = torch.ones(object_shape, dtype=torch.complex64, device=self.device)
        obj = self._started("object", flat)
        self._allocate(
            torch.view_as_real(torch.where(obj == 0, flat, obj)),
            torch.view_as_real(probe / unit),
            unit,
        )

    def _started(self, name: str, otherwise: Tensor) -> Tensor:
        """The object or probe that was given to start from, as one that fits this scan."""
        given = self._starts[name]
        if given is None:
            return otherwise
        given = given[None] if name == "probe" and given.ndim == 2 else given
        if given.shape[-2:] != otherwise.shape[-2:] or given.ndim != otherwise.ndim:
            expected = f"{tuple(otherwise.shape)}, as this scan has it"
            raise OptionError(f"initial_{name}", tuple(given.shape), expected)
        return given.to(self.device)

    def _allocate(self, obj: Tensor, probe: Tensor, probe_unit: Tensor) -> None:
        # Real views, last axis (real, imaginary): not every optimiser and checkpoint handles
        # complex tensors.
        self.obj = Parameter(obj.clone())
        self.probe = Parameter(probe.clone(), requires_grad=self.refine_probe)
        self.probe_unit = probe_unit.clone()

    def setup(self, stage: str) -> None:
        """Take shapes and the first probe from the trainer's datamodule, once.

        Raises
        ------
        OptionError
            The trainer has no PtychoDataModule, or that trains on several scans.
        """
        data = getattr(self.trainer, "datamodule", None)
        if getattr(data, "augmentation", None) is not None:
            expected = "none: its object and probe are those of the scan as measured"
            raise OptionError("augmentation", "one beside ObjectFit", expected)
        if self.obj is not None:
            return
        if not isinstance(data, PtychoDataModule):
            raise OptionError(
                "ObjectFit",
                "without a scan",
                "a trainer with a PtychoDataModule",
                action="Or call initialize(object_shape, probe) before fit",
            )
        dataset = data.dataset("train")
        if isinstance(dataset, SimulatedScans):
            expected = "one scan: ObjectFit has one object, and every epoch has others"
            action = "Fit SimulatedScans(...).scan(0)"
            raise OptionError("train", "SimulatedScans", expected, action=action)
        scans = dataset.scans
        if len(scans) != 1:
            raise OptionError(
                "train",
                f"{len(scans)} scans",
                "one: ObjectFit has one object",
                action="Fit each scan in a run of its own",
            )
        require_far_field(scans[0])
        height, width = data.object_shape if self.object_shape is None else self.object_shape
        probe = data.initial_probe
        unknown = self.first_probe == "initial" or is_average_pattern(scans[0])
        unknown = unknown and self._starts["probe"] is None
        if unknown and self.refine_probe and stage == "fit":
            probe = torch.from_numpy(search_probe(scans[0], device=self.device))
        self.initialize((int(height), int(width)), probe)
        if scans[0].frame_photons is not None:
            self.mean_photons.fill_(float(scans[0].frame_photons.mean()))
        _warn_of_cut_patches(scans[0])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take object and probe from a checkpoint, without any datamodule.

        Raises
        ------
        ScanFileError
            The checkpoint is another model's.
        """
        state, names = checkpoint["state_dict"], ("obj", "probe", "probe_unit")
        with naming(None if self._trainer is None else self._trainer.ckpt_path):
            for name in names:
                if name not in state:
                    found, expected = f"without {name}", "a checkpoint of ObjectFit"
                    raise ScanFileError("checkpoint", found, expected)
        self._allocate(*(state[name].to(self.device) for name in names))
        state.setdefault("mean_photons", torch.zeros((), dtype=torch.float64))

    def reconstruction(self) -> tuple[Tensor, Tensor]:
        """Object (H, W) and probe (P, N, N), complex64, detached; the probe in sqrt(counts).

        With ``refine_probe=False`` the probe is the one that the fit started from. Modes are
        orthogonal, the strongest first; frames depend on no other property of theirs.

        Raises
        ------
        OptionError
            No fit, checkpoint or call of ``initialize`` has set them yet.
        """
        obj, probe = self._object_and_probe()
        return obj.detach().clone(), _orthogonal(probe.detach())

    def _object_and_probe(self) -> tuple[Tensor, Tensor]:
        if self.obj is None or self.probe is None or self.probe_unit is None:
            raise OptionError("ObjectFit", "not initialized", "a fit, a checkpoint or initialize()")
        return torch.view_as_complex(self.obj), torch.view_as_complex(self.probe) * self.probe_unit

    def forward(self, batch: PtychoBatch) -> Tensor:
        """Modelled frames (B, C, N, N) in the units of ``batch.X``; bad pixels are 0 as there.

        Where the scan has photons per frame, the probe's light follows them.
        """
        obj, probe = self._object_and_probe()
        if not self.refine_probe:
            probe = batch.probe
        patches = object_patches(obj, batch.positions, batch.X.shape[1])
        amplitude = diffract(illuminate(probe, patches))
        if batch.frame_photons is not None and self.mean_photons > 0:
            light = (batch.frame_photons / self.mean_photons).sqrt().to(amplitude.dtype)
            amplitude = amplitude * light[:, :, None, None]
        if batch.bad_pixels is not None:
            amplitude = amplitude.masked_fill(batch.bad_pixels[:, None], 0)
        return batch.scale[:, None, None, None] * amplitude

    def _step(self, batch: PtychoBatch, stage: str) -> Tensor:
        residual, energy = fourier_sums(self(batch), batch.channels_first())
        loss: Tensor = residual / energy
        self.steps.log(self, stage, loss, (residual, energy), len(batch.X))
        return loss

    def training_step(self, batch: PtychoBatch, batch_idx: int) -> Tensor:
        """Squared Fourier error of a batch of training groups."""
        return self._step(batch, "train")

    def validation_step(self, batch: PtychoBatch, batch_idx: int) -> Tensor:
        """The same on validation groups; the object stays flat where no training frame saw it."""
        return self._step(batch, "val")

    def test_step(self, batch: PtychoBatch, batch_idx: int) -> Tensor:
        """The same on test groups."""
        return self._step(batch, "test")

    def predict_step(self, batch: PtychoBatch, batch_idx: int) -> dict[str, Tensor]:
        """Reconstructed patches and their positions.

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
        """Adam on object and probe; ``schedule="cosine"`` lowers the learning rate at every step.

        Raises
        ------
        OptionError
            A schedule that ends, in a fit without end.
        """
        groups = [{"params": [self.obj], "lr": self.learning_rate}]
        if self.refine_probe:
            groups.append({"params": [self.probe], "lr": self.probe_learning_rate})
        optimizer = torch.optim.Adam(groups)
        return scheduled(optimizer, self.schedule, self)


def _with_modes(probe: Tensor, n_modes: int) -> Tensor:
    if len(probe) > n_modes:
        found, expected = f"{n_modes}, fewer than the scan carries", f"at least {len(probe)}"
        raise OptionError("n_modes", found, expected)
    if len(probe) == n_modes or not (torch.isfinite(probe.abs()).all() and probe.any()):
        return probe
    return torch.from_numpy(add_modes(probe.detach().cpu().numpy(), n_modes))


def _orthogonal(probe: Tensor) -> Tensor:
    """Modes that give the same frames, orthogonal to each other, the strongest first."""
    if len(probe) == 1:
        return probe.clone()
    flat = probe.flatten(1).to(torch.complex128)
    _, vectors = torch.linalg.eigh(flat @ flat.mH)
    # A unitary mixture of modes has their intensity behind every object. The phase of each is free:
    # the mode that it has most of keeps its own.
    mixture = vectors.flip(1).mH
    largest = mixture.gather(1, mixture.abs().argmax(dim=1, keepdim=True))
    modes: Tensor = (largest.conj() / largest.abs() * mixture) @ flat
    return modes.reshape(probe.shape).to(probe.dtype)


def _warn_of_cut_patches(raw: RawData) -> None:
    """Such a scan can be fit, except where its patches lie beyond the object."""
    start = min(float(raw.xcoords.min()), float(raw.ycoords.min()))
    missing = raw.N // 2 - start
    span = max(float(np.ptp(raw.xcoords)), float(np.ptp(raw.ycoords)))
    if 0 < span <= SMALLEST_SPAN_PX:
        logger.warning(
            "%s: the scan spans %.2g px: positions are to be in object pixels; are these metres or "
            "micrometres? Corrections(position_unit=) and --position-unit convert them",
            raw.path or "scan in memory",
            span,
        )
    elif missing > 0:
        logger.warning(
            "%s: positions start at %.1f px, so patches reach over the object's edge, where it is "
            "0; add at least %.1f px to xcoords and ycoords to fit all of it",
            raw.path or "scan in memory",
            start,
            missing,
        )
