"""What a fit leaves behind: a picture, the reconstruction as arrays, and its figures of merit.

Owns the callback that judges and writes a reconstruction at the end of a fit. Asks a model for its
``reconstruction()`` and its frames; knows nothing of how it fits.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any, Protocol, cast

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_torch.batches.batch import PtychoBatch
from ptycho_torch.batches.dataset import PtychoDataset
from ptycho_torch.data.errors import MissingDependencyError, OptionError
from ptycho_torch.data.files.atomic_write import atomic_write
from ptycho_torch.data.geometry import pair
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.data.readers.write_product import write_product
from ptycho_torch.datamodule import PtychoDataModule
from ptycho_torch.fourier_error import error_of_sums, fourier_sums
from ptycho_torch.results import metrics
from ptycho_torch.results.flat_object import flat_object_error
from ptycho_torch.results.plotting import require_matplotlib, save_figure
from ptycho_torch.results.reconstruction_figure import plot_reconstruction

logger = logging.getLogger(__name__)


class Reconstructs(Protocol):
    """A model that has an object and a probe, and predicts frames."""

    def reconstruction(self) -> tuple[Tensor, Tensor]:
        """Object (H, W) and probe (P, N, N), complex."""

    def __call__(self, batch: PtychoBatch) -> Tensor:
        """Frames (B, C, N, N) in the units of ``batch.X``."""


class ReconstructionReport(pl.Callback):
    """Write reconstruction.png, reconstruction.npz and metrics.json when a fit ends.

    Where wavelength, distance and object pixel are known, and h5py is installed, product.h5 beside
    them is a product that Ptychodus opens.

    metrics.json holds ``fourier_error``, from one more pass over all training groups with the final
    parameters; ``flat_object_error``, that of the fitted probe behind nothing;
    ``complex_correlation`` with the scan's objectGuess over the illuminated area, or
    null where the scan has none of the same shape, beside ``flat_object_correlation``, what a flat
    object scores, and ``centred_correlation``, without the means, where that scores 0; and the
    settings of the fit.

    The objectGuess of a measured scan is an earlier reconstruction rather than the truth; the
    correlation then says how well the two agree.

    Parameters
    ----------
    output_dir
        Folder of the files; made where it is missing.
    """

    def __init__(self, output_dir: str) -> None:
        self.output_dir = Path(output_dir)
        self.history: dict[str, list[float]] = {}
        self._started_s = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse, before the fit, a run that cannot be reported on.

        Raises
        ------
        MissingDependencyError
            matplotlib is not installed.
        OptionError
            The model has no ``reconstruction()``, or the data is no PtychoDataModule.
        """
        require_matplotlib()
        if not hasattr(pl_module, "reconstruction"):
            raise OptionError("model", type(pl_module).__name__, "a model with reconstruction()")
        if not isinstance(_datamodule(trainer), PtychoDataModule):
            raise OptionError("data", "absent", "a PtychoDataModule")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._started_s = time.perf_counter()
        self.history = {"training": [], "validation": []}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the epoch's errors for the curve."""
        for name, key in (("training", "train"), ("validation", "val")):
            value = trainer.callback_metrics.get(f"{key}_fourier_error")
            if value is not None:
                self.history[name].append(float(value))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge the reconstruction and write the files."""
        if not trainer.is_global_zero:
            return
        seconds = time.perf_counter() - self._started_s
        model = cast("Reconstructs", pl_module)
        data = cast("PtychoDataModule", _datamodule(trainer))
        dataset = data.dataset("train")
        raw = dataset.scans[0]
        obj, probe = (part.cpu().numpy() for part in model.reconstruction())
        positions = np.stack([raw.xcoords, raw.ycoords], axis=1)
        mask = metrics.illuminated_mask(probe, positions, obj.shape)
        truth = raw.objectGuess
        if truth is not None and truth.shape != obj.shape:
            truth = None
        correlation = None if truth is None else metrics.complex_correlation(obj, truth, mask)
        pl_module.eval()
        error = _evaluate(model, dataset, data.batch_size, pl_module.device)
        pl_module.train()
        figures = {
            "complex_correlation": correlation,
            "fourier_error": error,
            "flat_object_error": flat_object_error(raw, probe),
            **_beside_a_flat_object(obj, truth, mask),
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "seconds": seconds,
            "parameters": sum(p.numel() for p in pl_module.parameters()),
            "hyperparameters": dict(pl_module.hparams),
            "illuminated_fraction": float(mask.mean()),
            "scan": str(raw.path) if raw.path is not None else None,
            "frames": len(raw.xcoords),
            "groups": len(dataset),
            "frames_per_group": dataset.grouping.channels,
            "model": type(pl_module).__name__,
        }
        pixel = pair(None if raw.geometry is None else raw.geometry.object_pixel_m)
        self._write(obj, probe, truth, positions, figures, pixel)
        self._write_product(raw, obj, probe)

    def _write(
        self,
        obj: NDArray[np.complex64],
        probe: NDArray[np.complex64],
        truth: NDArray[Any] | None,
        positions: NDArray[np.float64],
        figures: dict[str, Any],
        pixel_m: tuple[float, float] | None,
    ) -> None:
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.output_dir / "reconstruction.npz") as handle:
            np.savez(handle, object=obj, probe=probe)
        picture = plot_reconstruction(
            obj,
            probe,
            truth=truth,
            positions_px=positions,
            history=self.history,
            title=_title(figures),
            pixel_m=pixel_m,
        )
        save_figure(picture, self.output_dir / "reconstruction.png")
        with atomic_write(self.output_dir / "metrics.json") as handle:
            handle.write((json.dumps(figures, indent=2, default=str) + "\n").encode())
        logger.info("reconstruction written to %s", self.output_dir)

    def _write_product(
        self, raw: RawData, obj: NDArray[np.complex64], probe: NDArray[np.complex64]
    ) -> None:
        known = raw.geometry.known() if raw.geometry else {}
        if not {"wavelength_m", "distance_m", "object_pixel_m"} <= set(known):
            return
        losses = np.array(self.history["training"])
        try:
            write_product(self.output_dir / "product.h5", raw, obj, probe, losses=losses)
        except MissingDependencyError as error:
            logger.info("product.h5 is not written: %s", error)


def _beside_a_flat_object(
    obj: NDArray[Any], truth: NDArray[Any] | None, mask: NDArray[np.bool_]
) -> dict[str, float | None]:
    """The correlation without means, and what a flat object scores in the one with them."""
    if truth is None:
        return {"centred_correlation": None, "flat_object_correlation": None}
    return {
        "centred_correlation": metrics.centred_correlation(obj, truth, mask),
        "flat_object_correlation": metrics.complex_correlation(np.ones_like(obj), truth, mask),
    }


@torch.no_grad()
def _evaluate(
    model: Reconstructs, dataset: PtychoDataset, batch_size: int, device: torch.device
) -> float:
    """Fourier error of a model over every group of a dataset, summed in float64."""
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    for start in range(0, len(dataset), batch_size):
        groups = range(start, min(start + batch_size, len(dataset)))
        batch = dataset.__getitems__(groups).to(device)
        sums += torch.stack(fourier_sums(model(batch), batch.channels_first()))
    return float(error_of_sums(*sums))


def _title(figures: dict[str, Any]) -> str:
    name = Path(figures["scan"]).stem if figures["scan"] else "scan in memory"
    parts = [f"Fourier error {figures['fourier_error']:.3f}"]
    if figures["complex_correlation"] is not None:
        parts.insert(0, f"complex correlation with the truth {figures['complex_correlation']:.4f}")
    return f"{name}: {', '.join(parts)}; {figures['epochs']} epochs in {figures['seconds']:.1f} s"


def _datamodule(trainer: pl.Trainer) -> object:
    return getattr(trainer, "datamodule", None)
