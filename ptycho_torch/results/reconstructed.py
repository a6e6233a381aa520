"""What a model makes of the scans of a datamodule: an object of each, judged part by part.

Owns the passes over training, validation and test groups, and what is asked of a model: its
``reconstruction()``, or patches from ``predict_step``. Writes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from numpy.typing import NDArray
from torch import Tensor

from ptycho_torch.batches.batch import PtychoBatch
from ptycho_torch.batches.dataset import PtychoDataset
from ptycho_torch.batches.sending import dtype_of_X
from ptycho_torch.data.errors import OptionError
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.datamodule import PtychoDataModule
from ptycho_torch.fourier_error import error_of_sums, fourier_sums
from ptycho_torch.physics import Stitcher, diffract, illuminate, object_patches, object_shape_for
from ptycho_torch.results.judged import compared_with, figures_beside_flat
from ptycho_torch.results.metrics import illuminated_mask


@dataclass(frozen=True)
class Reconstructed:
    """An object of one scan and its figures.

    Attributes
    ----------
    raw
        The scan.
    obj, probe
        (H, W) and (P, N, N), complex64, on the CPU.
    truth
        The scan's object where it has this shape, else None.
    positions_px
        (M, 2), order (x, y), of all frames of all parts.
    figures
        Of each part, by its name, as ``figures_beside_flat`` gives them.
    groups
        Of each part, how many.
    reference
        What the truth is, or None.
    """

    raw: RawData
    obj: NDArray[np.complex64]
    probe: NDArray[np.complex64]
    truth: NDArray[Any] | None
    positions_px: NDArray[np.float64]
    figures: dict[str, dict[str, Any]]
    groups: dict[str, int]
    reference: str | None


@dataclass(frozen=True)
class _Part:
    """The groups of one scan in one part of the data, each once."""

    dataset: PtychoDataset
    scan: RawData
    groups: NDArray[np.int64]
    batch_size: int
    device: torch.device

    def positions(self) -> NDArray[np.float64]:
        """(M, 2) of its frames, order (x, y)."""
        frames = np.unique(self.dataset.index.nn_indices[self.groups])
        return np.stack([self.scan.xcoords, self.scan.ycoords], axis=1)[frames]

    def __iter__(self) -> Iterator[PtychoBatch]:
        for start in range(0, len(self.groups), self.batch_size):
            groups = self.groups[start : start + self.batch_size]
            yield self.dataset.__getitems__(groups).to(self.device)


def require_reconstruction(model: pl.LightningModule) -> None:
    """Refuse a model that has neither an object nor patches.

    Raises
    ------
    OptionError
        It has no ``reconstruction()``, and no ``predict_step`` of its own.
    """
    if not hasattr(model, "reconstruction") and not is_overridden("predict_step", model):
        expected = "a model with reconstruction(), or with a predict_step that returns patches"
        raise OptionError("model", type(model).__name__, expected)


@torch.no_grad()
def reconstructed(
    model: pl.LightningModule,
    data: PtychoDataModule,
    trainer: pl.Trainer,
    *,
    predict: bool = False,
) -> list[Reconstructed]:
    """What the model makes of every scan, in evaluation mode, in this process only.

    Scans of ``train`` come first, then those of ``val`` where it has scans of its own; with
    ``predict``, those of ``predict`` instead, where it has any. A model with a
    ``reconstruction()`` has one object, that of the first scan.

    Raises
    ------
    OptionError
        ``predict_step`` returns something else than complex patches with their positions.
    """
    training = model.training
    model.eval()
    try:
        every = _scans(data, model.device, predict)
        if hasattr(model, "reconstruction"):
            return [_of_a_fit(model, trainer, every[0])]
        return [_of_patches(model, trainer, parts) for parts in every]
    finally:
        model.train(training)


def _scans(data: PtychoDataModule, device: torch.device, predict: bool) -> list[dict[str, _Part]]:
    """The parts of every scan, by name."""
    if predict and data.scans["predict"] is not None:
        unseen = data.dataset("predict")
        numbers = range(len(unseen.scans))
        return [{"predicted": _part(unseen, number, data.batch_size, device)} for number in numbers]
    together = {"training": data.dataset("train")}
    if data.scans["val"] is None and data.dataset("val") is not together["training"]:
        together["validation"] = data.dataset("val")
    if data.scans["test"] is None and data.test_fraction:
        together["test"] = data.dataset("test")
    apart = {"validation": data.dataset("val")} if data.scans["val"] is not None else {}
    found = []
    for datasets in (together, apart):
        for number in range(max((len(each.scans) for each in datasets.values()), default=0)):
            parts = {
                name: _part(dataset, number, data.batch_size, device)
                for name, dataset in datasets.items()
            }
            found.append({name: part for name, part in parts.items() if len(part.groups)})
    return [parts for parts in found if parts]


def _part(dataset: PtychoDataset, number: int, batch_size: int, device: torch.device) -> _Part:
    rows = np.flatnonzero(dataset.index.scan_id == number)
    # A scan of weight 2 has every group twice.
    _, first = np.unique(dataset.index.nn_indices[rows], axis=0, return_index=True)
    return _Part(dataset, dataset.scans[number], rows[np.sort(first)], batch_size, device)


def _of_a_fit(model: Any, trainer: pl.Trainer, parts: dict[str, _Part]) -> Reconstructed:
    obj, probe = model.reconstruction()
    judged = {
        name: (obj, _errors(part, probe, partial(_ask, trainer, model)))
        for name, part in parts.items()
    }
    return _judged(obj, probe, parts, judged)


def _of_patches(
    model: pl.LightningModule, trainer: pl.Trainer, parts: dict[str, _Part]
) -> Reconstructed:
    first = next(iter(parts.values()))
    probe = first.dataset.tables.probes[int(first.dataset.index.scan_id[first.groups[0]])]
    shape = _shape(first.scan, np.concatenate([part.positions() for part in parts.values()]))
    whole, judged = Stitcher(shape), {}
    for name, part in parts.items():
        own = Stitcher(shape)
        for number, batch in enumerate(part):
            predicted = _ask(trainer, partial(model.predict_step, batch_idx=number), batch)
            patches, positions = _checked(predicted, batch)
            for stitcher in (own, whole):
                stitcher.add(patches, positions, probe=probe)
        obj = own.object(in_place=True)
        modelled = partial(_frames_behind, obj.to(part.device))
        judged[name] = obj, _errors(part, probe, modelled, modulus_free=True)
    return _judged(whole.object(in_place=True), probe, parts, judged)


def _ask(trainer: pl.Trainer, ask: Callable[[PtychoBatch], Any], batch: PtychoBatch) -> Any:
    """Ask a model in the precision of its trainer."""
    dtype = dtype_of_X(trainer)
    with trainer.precision_plugin.forward_context():
        return ask(batch if dtype == torch.float32 else batch.to(dtype))


def _checked(predicted: Any, batch: PtychoBatch) -> tuple[Tensor, Tensor]:
    """Patches (B, C, N, N) and positions (B, C, 2) of what a model predicts."""
    frames = batch.channels_first()
    wanted = {"patches": tuple(frames.shape), "positions_px": (*frames.shape[:2], 2)}
    for name, shape in wanted.items():
        value = predicted.get(name) if isinstance(predicted, Mapping) else None
        found = tuple(value.shape) if isinstance(value, Tensor) else "absent"
        if found != shape:
            field = f"{name} of what predict_step returns"
            raise OptionError(field, found, f"a tensor of shape {shape}")
    if not predicted["patches"].is_complex():
        raise OptionError("patches of what predict_step returns", "real", "complex")
    return predicted["patches"], predicted["positions_px"]


def _shape(scan: RawData, positions_px: NDArray[np.float64]) -> tuple[int, int]:
    """(H, W) of an object that holds every patch, as large as the scan's own where that does."""
    least = object_shape_for(positions_px, scan.N)
    if scan.objectGuess is None:
        return least
    height, width = (max(pair) for pair in zip(least, scan.objectGuess.shape, strict=True))
    return height, width


def _frames_behind(obj: Tensor, batch: PtychoBatch) -> Tensor:
    """Frames (B, C, N, N) of an object behind the batch's probe."""
    patches = object_patches(obj, batch.positions, batch.X.shape[1])
    return _as_measured(diffract(illuminate(batch.probe, patches)), batch)


def _as_measured(amplitude: Tensor, batch: PtychoBatch) -> Tensor:
    """Frames with the batch's light in each, up to one factor, and 0 in its bad pixels."""
    if batch.frame_photons is not None:
        amplitude = amplitude * batch.frame_photons.sqrt()[..., None, None]
    if batch.bad_pixels is not None:
        amplitude = amplitude.masked_fill(batch.bad_pixels[:, None], 0)
    return amplitude


def _errors(
    part: _Part,
    probe: Tensor,
    modelled: Callable[[PtychoBatch], Tensor],
    modulus_free: bool = False,
) -> tuple[float, float]:
    """Fourier error of modelled frames, and that of a flat object, over all groups of a part.

    That of a flat object is the least over its modulus; so is the other with ``modulus_free``.
    """
    probe = probe.to(part.device)
    empty = diffract(illuminate(probe, torch.ones_like(probe[:1])))
    sums = torch.zeros(6, dtype=torch.float64, device=part.device)
    for batch in part:
        frames = batch.channels_first().double()
        ours, flat = modelled(batch).double(), _as_measured(empty, batch).double()
        flat = flat.expand(frames.shape)
        products = (
            each
            for model in (ours, flat)
            for each in ((model * frames).sum(), model.square().sum())
        )
        sums += torch.stack([*fourier_sums(ours, frames), *products])
    residual, energy, product, power, flat_product, flat_power = sums
    error = float(error_of_sums(residual, energy))
    if modulus_free:
        error = _least_error(product, power, energy)
    return error, _least_error(flat_product, flat_power, energy)


def _least_error(product: Tensor, power: Tensor, energy: Tensor) -> float:
    """Fourier error of frames times the factor that fits best."""
    explained = float(product**2 / (power * energy)) if power > 0 else 0.0
    return math.sqrt(max(0.0, 1 - explained))


def _judged(
    obj: Tensor,
    probe: Tensor,
    parts: dict[str, _Part],
    judged: dict[str, tuple[Tensor, tuple[float, float]]],
) -> Reconstructed:
    """Arrays on the CPU, and figures over what each part's frames show."""
    raw = next(iter(parts.values())).scan
    shown, light = obj.cpu().numpy(), probe.cpu().numpy()
    truth = raw.objectGuess
    if truth is not None and truth.shape != shown.shape:
        truth = None
    pixel = None if raw.geometry is None else raw.geometry.object_pixel_m
    figures = {}
    for name, (own, errors) in judged.items():
        mask = illuminated_mask(light, parts[name].positions(), shown.shape)
        figures[name] = figures_beside_flat(own.cpu().numpy(), truth, mask, errors, pixel)
        figures[name]["illuminated_fraction"] = float(mask.mean())
    return Reconstructed(
        raw,
        shown,
        light,
        truth,
        np.concatenate([part.positions() for part in parts.values()]),
        figures,
        {name: len(part.groups) for name, part in parts.items()},
        None if truth is None else compared_with(raw),
    )
