"""A network that turns each frame into the patch of the object behind it.

Owns the network's inputs and output, and its training on frames as they are, without labels. The
probe and the positions are data of each batch, never weights: one network serves many scans. Knows
no file and no grouping.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from types import MappingProxyType
from typing import Any

import lightning.pytorch as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ptycho_torch.batches.batch import PtychoBatch
from ptycho_torch.batches.scans import object_shape
from ptycho_torch.data.config import GroupingConfig, check_choice, check_integer
from ptycho_torch.data.errors import OptionError, ScanFileError, naming
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.datamodule import PtychoDataModule, Stage
from ptycho_torch.fourier_error import fourier_sums
from ptycho_torch.models.back_projection import back_projection
from ptycho_torch.models.error_metric import LoggedSteps
from ptycho_torch.models.far_field import require_far_field
from ptycho_torch.models.frame_losses import FrameLoss, frame_loss
from ptycho_torch.models.projections import projections as projected
from ptycho_torch.models.schedules import Schedule, scheduled
from ptycho_torch.models.stitched import Stitched
from ptycho_torch.models.unet import UNet
from ptycho_torch.physics import cut, diffract, group_canvas, illuminate

_SEEN: Mapping[str, tuple[Stage, ...]] = MappingProxyType(
    {
        "fit": ("train", "val"),
        "validate": ("val",),
        "test": ("test",),
        "predict": ("predict",),
    }
)

INPUTS = 3
"""Channels of the network: the frame, and the real and imaginary part of a first estimate."""

INTENSITY_RATE = 20
"""Learning rates of the intensity: it is there before the patches take its place."""


class PtychoPINN(pl.LightningModule):
    """Physics-informed network: one U-Net for every frame, trained through the forward model.

    The patches of a group are merged where they overlap, weighted by the probe's light, cut again
    at each position, lit by every mode of the probe and diffracted; the frames that come out are
    compared with the measured ones. After O. Hoidn et al., Sci. Rep. 13, 22789 (2023),
    doi:10.1038/s41598-023-48351-7. The network sees one frame at a time, so groups of any size
    train it, and a group of one frame will do to predict. With ``projections`` the frame comes
    with what a few rounds of phase retrieval make of its group; then predict with groups of the
    size that trained it.

    Parameters
    ----------
    width
        Channels of the network at full size.
    depth
        Number of sizes of images inside the network; N is a multiple of ``2 ** (depth - 1)``.
    loss
        ``"amplitude_mse"``, ``"amplitude_mae"`` or ``"poisson"``: what a frame costs.
    supervised_weight
        0: frames only; 1: the patches Y only; between: (1 - w) times the one and w times the
        other. The data module then needs ``patch_positions="scan"`` and scans with a truth.
    projections
        Rounds of alternating projections over the group, whose outcome the network refines. 0: it
        starts from the back-projection of each frame. 30 rounds are worth it for specimens and
        probes that the network has not seen, and take about as long as the network itself.
    learn_intensity
        Learn one factor of all modelled amplitudes, for probes whose strength is not that of the
        frames. The patches stay as they are.
    learning_rate
        Step of Adam.
    schedule
        ``"cosine"``, ``"stages"`` (0.3 of the rate after half of the steps, 0.1 after 0.8) or
        ``"constant"``.

    Raises
    ------
    OptionError
        An option is out of range.
    """

    def __init__(
        self,
        width: int = 16,
        depth: int = 4,
        loss: FrameLoss = "amplitude_mse",
        supervised_weight: float = 0.0,
        projections: int = 0,
        learn_intensity: bool = False,
        learning_rate: float = 2e-3,
        schedule: Schedule = "cosine",
    ) -> None:
        super().__init__()
        check_integer("width", width, minimum=1)
        check_integer("depth", depth, minimum=1)
        check_integer("projections", projections, minimum=0)
        check_choice("loss", loss, FrameLoss)
        check_choice("schedule", schedule, Schedule)
        if not 0 <= supervised_weight <= 1:
            raise OptionError("supervised_weight", supervised_weight, "a number from 0 to 1")
        if not learning_rate > 0:
            raise OptionError("learning_rate", learning_rate, "a number above 0")
        self.save_hyperparameters()
        self.depth = depth
        self.loss: FrameLoss = loss
        self.supervised_weight = supervised_weight
        self.projections = projections
        self.learning_rate = learning_rate
        self.schedule: Schedule = schedule
        self.network = UNet(INPUTS, 2, width, depth)
        # The logarithm of the factor.
        self.intensity = nn.Parameter(torch.zeros(()), requires_grad=learn_intensity)
        self.steps = LoggedSteps()

    def setup(self, stage: str) -> None:
        """Refuse data that this network cannot learn from, before it starts.

        Raises
        ------
        OptionError
            The frames' side does not fit ``depth``; a scan is of the near field; training with
            labels lacks them, or they are the reference's mirrored patches.
        """
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, PtychoDataModule):
            return
        for each in _SEEN[stage]:
            dataset = data.dataset(each)
            for scan in dataset.measured:
                require_far_field(scan)
            step = 2 ** (self.depth - 1)
            if dataset.N % step:
                found = f"{self.depth} for frames of N = {dataset.N}"
                action = f"N has to be a multiple of {step}"
                raise OptionError("depth", found, "one that halves them", action=action)
            if self.supervised_weight and stage != "predict":
                _require_labels(dataset.ground_truth, dataset.patch_positions)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the weights of another model, or of another size.

        Raises
        ------
        ScanFileError
            The checkpoint has other weights than this network.
        """
        sizes = [
            {name: tuple(values.shape) for name, values in state.items()}
            for state in (checkpoint["state_dict"], self.state_dict())
        ]
        if not self.strict_loading or sizes[0] == sizes[1]:
            return
        found, expected = "weights of another model", f"a checkpoint of {type(self).__name__}"
        given, own = checkpoint.get("hyper_parameters", {}), self.hparams
        if {"width", "depth"} <= set(given) and any(
            given[key] != own[key] for key in ("width", "depth")
        ):
            found, expected = (
                f"a network of width {each['width']} and depth {each['depth']}"
                for each in (given, own)
            )
        with naming(None if self._trainer is None else self._trainer.ckpt_path):
            raise ScanFileError("checkpoint", found, expected)

    def on_train_epoch_end(self) -> None:
        """Refuse to go on from a loss that is no number.

        Raises
        ------
        OptionError
            The mean loss of the epoch is not finite.
        """
        loss = self.trainer.callback_metrics.get("train_loss")
        if loss is not None and not torch.isfinite(loss):
            action = "Type a smaller learning_rate, gradient_clip_val=1, or precision='32-true'"
            raise OptionError("train_loss", float(loss), "a finite number", action=action)

    def patches(self, batch: PtychoBatch) -> Tensor:
        """The patch of the object behind every frame, complex64, (B, C, N, N).

        Without ``projections`` each follows from its frame by itself.
        """
        X = batch.channels_first().float()
        X = X / _light(batch)
        estimate = self._estimate(X / batch.scale.view(-1, 1, 1, 1), batch)
        # log1p(4 X): faint fringes and the bright centre have comparable size.
        inputs = torch.stack([torch.log1p(4 * X), estimate.real, estimate.imag], dim=2)
        # A Trainer's true precision changes the weights.
        images = inputs.flatten(0, 1).to(self.network.head.weight.dtype)
        images = images.contiguous(memory_format=torch.channels_last)
        parts = self.network(images).float().unflatten(0, X.shape[:2])
        start = 1 + estimate if self.projections else 1
        return start + torch.complex(parts[:, :, 0], parts[:, :, 1])

    def _estimate(self, amplitude: Tensor, batch: PtychoBatch) -> Tensor:
        """What the network refines, complex, (B, C, N, N)."""
        if not self.projections:
            return back_projection(amplitude, batch.probe)
        offsets = _offsets(batch)
        patches = projected(amplitude, batch.probe, offsets, self.projections, batch.bad_pixels)
        return patches - 1

    def frames(self, batch: PtychoBatch, patches: Tensor) -> Tensor:
        """Modelled frames (B, C, N, N) of patches (B, C, N, N), in the units of ``batch.X``."""
        merged = patches
        if patches.shape[1] > 1:
            light = batch.probe.abs().square().sum(dim=1, keepdim=True)
            offsets = _offsets(batch)
            merged = cut(group_canvas(patches, offsets, weights=light), offsets, patches.shape[-1])
        factor = (batch.scale * self.intensity.exp()).view(-1, 1, 1, 1)
        amplitude = factor * _light(batch) * diffract(illuminate(batch.probe, merged))
        if batch.bad_pixels is not None:
            amplitude = amplitude.masked_fill(batch.bad_pixels[:, None], 0)
        return amplitude

    def forward(self, batch: PtychoBatch) -> Tensor:
        """Modelled frames (B, C, N, N) in the units of ``batch.X``; bad pixels are 0 as there."""
        return self.frames(batch, self.patches(batch))

    def _step(self, batch: PtychoBatch, stage: str) -> Tensor:
        patches, measured = self.patches(batch), batch.channels_first().float()
        frames = self.frames(batch, patches)
        loss = frame_loss(self.loss, frames, measured)
        if self.supervised_weight:
            supervised = _patch_loss(patches, batch)
            loss = (1 - self.supervised_weight) * loss + self.supervised_weight * supervised
        sums = fourier_sums(frames.detach(), measured)
        self.steps.log(self, stage, loss, sums, len(batch.X))
        return loss

    def training_step(self, batch: PtychoBatch, batch_idx: int) -> Tensor:
        """The loss of a batch of training groups."""
        return self._step(batch, "train")

    def validation_step(self, batch: PtychoBatch, batch_idx: int) -> Tensor:
        """The same on validation groups, of which the network has seen no frame."""
        return self._step(batch, "val")

    def test_step(self, batch: PtychoBatch, batch_idx: int) -> Tensor:
        """The same on test groups."""
        return self._step(batch, "test")

    def predict_step(self, batch: PtychoBatch, batch_idx: int) -> dict[str, Tensor]:
        """Patches and their positions.

        Returns
        -------
        dict
            ``patches`` (B, C, N, N) complex64, ``positions_px`` (B, C, 2) float64 in the order
            (x, y), ``nn_indices`` (B, C) int64: what ``physics.stitch`` takes.
        """
        patches = self.patches(batch)
        return {
            "patches": patches,
            "positions_px": batch.positions,
            "nn_indices": batch.nn_indices,
        }

    def predict_object(
        self,
        scan: RawData | PtychoDataModule | str | PathLike[str],
        trainer: pl.Trainer | None = None,
    ) -> NDArray[Any]:
        """The object of one scan, its patches stitched where they lie.

        Parameters
        ----------
        scan
            A scan or its file: every frame is predicted once, or, with ``projections``, every
            frame in groups of four. Or a data module with one scan for predict: every group of it
            is.
        trainer
            Predicts, with its devices and precision; None: a new one, on a GPU where there is one,
            in float32.

        Returns
        -------
        NDArray
            (H, W) complex64, pixel (y, x) at position (x, y); 0 where no patch lies. Each pixel is
            the mean of the patches over it, weighted by the probe's light. The shape is the
            scan's ``objectGuess``'s; without one, the smallest that holds every patch.

        Raises
        ------
        OptionError
            The data module has several scans for predict, or the scan does not fit the network.
        """
        data = scan
        if not isinstance(data, PtychoDataModule):
            once = GroupingConfig(gridsize=1, neighbor_count=1)
            grouping = GroupingConfig() if self.projections else once
            one = data if isinstance(data, RawData) else str(data)
            data = PtychoDataModule(one, grouping=grouping, split="none", ground_truth="none")
        scans = data.dataset("predict").scans
        if len(scans) != 1:
            found, action = f"{len(scans)} scans", "Predict each scan by itself"
            raise OptionError("predict", found, "one: an object", action=action)
        stitched = Stitched(object_shape(scans))
        if trainer is None:
            trainer = pl.Trainer(logger=False, enable_model_summary=False, devices=1)
        trainer.callbacks.append(stitched)  # type: ignore[attr-defined]
        try:
            trainer.predict(self, datamodule=data, return_predictions=False)
        finally:
            trainer.callbacks.remove(stitched)  # type: ignore[attr-defined]
        return stitched.object().numpy()

    def configure_optimizers(self) -> Any:
        """Adam, its learning rate as ``schedule`` says.

        Raises
        ------
        OptionError
            A schedule that ends, in a fit without end.
        """
        groups: list[dict[str, Any]] = [{"params": list(self.network.parameters())}]
        if self.intensity.requires_grad:
            rate = INTENSITY_RATE * self.learning_rate
            groups.append({"params": [self.intensity], "lr": rate})
        optimizer = torch.optim.Adam(groups, self.learning_rate)
        return scheduled(optimizer, self.schedule, self)


def _light(batch: PtychoBatch) -> Tensor | float:
    """Amplitude of the light on each frame beside the probe's own, (B, C, 1, 1); 1: unknown."""
    if batch.frame_photons is None:
        return 1.0
    mean = batch.probe.abs().square().sum(dim=(1, 2, 3)).view(-1, 1)
    return (batch.frame_photons / mean).sqrt().to(torch.float32)[:, :, None, None]


def _offsets(batch: PtychoBatch) -> Tensor:
    """Places of the frames on their group's canvas, (B, C, 2).

    From a whole pixel of the object: whole positions stay whole, and are merged exactly.
    """
    return batch.positions - batch.global_offsets[:, 0].mT.round()


def _patch_loss(patches: Tensor, batch: PtychoBatch) -> Tensor:
    """Mean of |patch - Y| ** 2, each pixel by the probe's light, whose mean is 1."""
    if batch.Y is None:
        raise OptionError(
            "supervised_weight",
            "above 0 with batches without Y",
            "ground_truth='object' or 'file' of the data module",
        )
    light = batch.probe.abs().square().sum(dim=1, keepdim=True)
    light = light / light.mean(dim=(-2, -1), keepdim=True)
    difference: Tensor = patches - batch.Y.movedim(-1, 1)
    return (light * difference.abs().square()).mean()


def _require_labels(ground_truth: str, patch_positions: str) -> None:
    if ground_truth == "none":
        expected = "scans with objectGuess or Y, and ground_truth='object' or 'file'"
        raise OptionError("supervised_weight", "above 0 without ground truth", expected)
    if ground_truth == "object" and patch_positions == "reference":
        found = "'reference', which mirrors patches about the group's centre"
        action = "Type: patch_positions='scan'"
        raise OptionError("patch_positions", found, "'scan', to train on them", action=action)
