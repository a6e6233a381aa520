"""What training leaves behind: a picture, the reconstruction as arrays, its figures of merit.

Owns the callback that writes them at the end, and shows them to loggers on the way. Knows nothing
of how a model is asked, nor of how an object is judged.
"""

from __future__ import annotations

import json
import logging
import os
import textwrap
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.loggers import Logger

from ptycho_torch.data.config import check_integer
from ptycho_torch.data.errors import MissingDependencyError, OptionError, shown
from ptycho_torch.data.files.atomic_write import atomic_write
from ptycho_torch.data.geometry import pair
from ptycho_torch.data.readers.write_product import write_product
from ptycho_torch.datamodule import PtychoDataModule
from ptycho_torch.results.fit_page import FitFacts, fit_page
from ptycho_torch.results.flat_object import FitVerdict, shot_noise_error
from ptycho_torch.results.judged import in_words
from ptycho_torch.results.page import write_page
from ptycho_torch.results.plotting import require_matplotlib, save_figure
from ptycho_torch.results.reconstructed import (
    Reconstructed,
    reconstructed,
    require_reconstruction,
)
from ptycho_torch.results.reconstruction_figure import plot_reconstruction

logger = logging.getLogger(__name__)

_TITLE_WIDTH = 90


class ReconstructionReport(pl.Callback):
    """Write reconstruction.png and .npz, metrics.json and report.html when training ends.

    A model is one with a ``reconstruction()`` (object and probe of one scan, and frames when it is
    called), or any whose ``predict_step`` returns ``patches`` (B, C, N, N), complex, and
    ``positions_px`` (B, C, 2), order (x, y). Patches are stitched, weighted by the light of the
    scan's probe, each group once. Of several scans each has its files, with its name in front:
    ``<stem>.metrics.json``. Where wavelength, distance and object pixel are known, and h5py is
    installed, product.h5 beside them is a product that Ptychodus opens. The main process writes;
    other ranks take no part.

    report.html is a page for a browser: figures, pictures, the error of every epoch, options,
    versions and what was typed.

    metrics.json holds, over the area that the frames of the training groups illuminate,
    ``centred_correlation``, ``phase_pearson``, ``amplitude_pearson`` and
    the half period of the ring correlation, all with the scan's objectGuess, or null where the scan
    has none of the same shape, and ``fourier_error``, from one more pass over all groups. What a
    flat object scores stands under ``flat_object``, its Fourier error that of the probe behind
    nothing. ``validation`` and ``test`` hold the same of their groups where they are others; an
    object of patches is then stitched of that part's groups only. Its Fourier error is that of the
    stitched object, at the modulus that fits best, behind the scan's probe.

    The objectGuess of a measured scan is an earlier reconstruction rather than the truth:
    ``compared_with`` says which.

    Parameters
    ----------
    output_dir
        Folder of the files; made where it is missing.
    every_n_epochs
        Also show figures, and the picture where it takes pictures (TensorBoard), to every logger of
        the Trainer after every so many epochs. None: only files, at the end.

    Attributes
    ----------
    command
        What was typed, for report.html; empty where a program makes the fit.

    Raises
    ------
    OptionError
        ``every_n_epochs`` is below 1.
    """

    def __init__(self, output_dir: str, every_n_epochs: int | None = None) -> None:
        check_integer("every_n_epochs", every_n_epochs, minimum=1, optional=True)
        self.output_dir = Path(output_dir)
        self.every_n_epochs = every_n_epochs
        self.history: dict[str, list[float]] = {}
        self.written: list[Path] = []
        self.command = ""
        self._started_s = self._seconds = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse, before the fit, a run that cannot be reported on.

        Raises
        ------
        MissingDependencyError
            matplotlib is not installed.
        OptionError
            The model has neither ``reconstruction()`` nor ``predict_step``, the data is no
            PtychoDataModule, or there is no logger to show anything to.
        """
        require_matplotlib()
        require_reconstruction(pl_module)
        if not isinstance(_datamodule(trainer), PtychoDataModule):
            raise OptionError("data", "absent", "a PtychoDataModule")
        if self.every_n_epochs is not None and not trainer.loggers:
            found = f"{self.every_n_epochs}, without a logger"
            expected = "a Trainer with a logger, such as CSVLogger or TensorBoardLogger"
            raise OptionError("every_n_epochs", found, expected)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._started_s = time.perf_counter()
        self.history = {"training": [], "validation": []}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the epoch's errors for the curve, and show the reconstruction to the loggers."""
        for name, key in (("training", "train"), ("validation", "val")):
            value = trainer.callback_metrics.get(f"{key}_fourier_error")
            if value is not None:
                self.history[name].append(float(value))
        epochs = trainer.current_epoch + 1
        self._seconds = time.perf_counter() - self._started_s
        if self.every_n_epochs and epochs % self.every_n_epochs == 0 and trainer.is_global_zero:
            for prefix, found in self._named(trainer, pl_module):
                figures = self._figures(trainer, pl_module, found, epochs)
                for each in trainer.loggers:
                    self._show(each, f"{prefix}reconstruction", found, figures, trainer.global_step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge the reconstruction and write the files."""
        if not trainer.is_global_zero:
            return
        self._seconds = time.perf_counter() - self._started_s
        self.written = []
        for prefix, found in self._named(trainer, pl_module):
            figures = self._figures(trainer, pl_module, found, trainer.current_epoch)
            self._write(prefix, found, figures, _configuration(trainer, pl_module))

    def write_predicted(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge and write what a trained model predicts, under names that begin with ``predicted``.

        Scans of ``predict`` have one part, ``predicted``; where there are none, those of ``train``
        are predicted, and each part of the split is judged by itself.
        """
        if trainer.is_global_zero:
            self.written = []
            for prefix, found in self._named(trainer, pl_module, predict=True):
                figures = self._figures(trainer, pl_module, found)
                options = _configuration(trainer, pl_module)
                self._write(f"{prefix}predicted_", found, figures, options)

    def _named(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, predict: bool = False
    ) -> list[tuple[str, Reconstructed]]:
        """Every reconstruction with what its names begin with: nothing where there is but one."""
        data = _datamodule(trainer)
        assert isinstance(data, PtychoDataModule)
        several = reconstructed(pl_module, data, trainer, predict=predict)
        if len(several) == 1:
            return [("", several[0])]
        stems = [_stem(found) for found in several]
        return [
            (f"{stem}." if stems.count(stem) == 1 else f"{stem}-{number}.", found)
            for number, (stem, found) in enumerate(zip(stems, several, strict=True))
        ]

    def _figures(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        found: Reconstructed,
        epochs: int | None = None,
    ) -> dict[str, Any]:
        """What metrics.json holds; ``epochs`` is None where nothing was trained."""
        raw, data = found.raw, _datamodule(trainer)
        assert isinstance(data, PtychoDataModule)
        parts = {
            name: {**figures, "groups": found.groups[name]}
            for name, figures in found.figures.items()
        }
        return {
            **parts.pop("training", {}),
            **parts,
            "compared_with": found.reference,
            **({} if epochs is None else self._effort(epochs, trainer.global_step)),
            "parameters": sum(p.numel() for p in pl_module.parameters()),
            "hyperparameters": dict(pl_module.hparams),
            "scan": str(raw.path) if raw.path is not None else None,
            "frames": len(raw.xcoords),
            "frames_per_group": data.grouping.channels,
            "model": type(pl_module).__name__,
        }

    def _effort(self, epochs: int, steps: int) -> dict[str, float]:
        return {"epochs": epochs, "steps": steps, "seconds": self._seconds}

    def _picture(self, found: Reconstructed, figures: dict[str, Any]) -> Any:
        geometry = found.raw.geometry
        return plot_reconstruction(
            found.obj,
            found.probe,
            truth=found.truth,
            positions_px=found.positions_px,
            history=self.history or None,
            title=_title(figures, _stem(found)),
            pixel_m=pair(None if geometry is None else geometry.object_pixel_m),
        )

    def _show(
        self, to: Logger, tag: str, found: Reconstructed, figures: dict[str, Any], step: int
    ) -> None:
        numbers = {
            f"{tag}/{name}": value
            for name, value in _flattened(figures).items()
            if isinstance(value, float)
        }
        to.log_metrics(numbers, step=step)
        add_figure = getattr(getattr(to, "experiment", None), "add_figure", None)
        if add_figure is not None:
            add_figure(tag, self._picture(found, figures), step)

    def _write(
        self,
        prefix: str,
        found: Reconstructed,
        figures: dict[str, Any],
        configuration: dict[str, Any],
    ) -> None:
        self.output_dir.mkdir(parents=True, exist_ok=True)
        start = self.output_dir / f"{prefix}reconstruction"
        with atomic_write(start.with_name(f"{start.name}.npz")) as handle:
            np.savez(handle, object=found.obj, probe=found.probe)
        save_figure(self._picture(found, figures), start.with_name(f"{start.name}.png"))
        path = self.output_dir / f"{prefix}metrics.json"
        with atomic_write(path) as handle:
            handle.write((json.dumps(figures, indent=2, default=str) + "\n").encode())
        page = fit_page(self._facts(found, figures, configuration))
        lead = f"{figures['model']} of {shown(figures['scan'] or 'a scan in memory')}"
        write_page(self.output_dir / f"{prefix}report.html", shown(_stem(found)), lead, page)
        self.written.append(path)
        self._write_product(self.output_dir / f"{prefix}product.h5", found)
        logger.info("reconstruction written to %s", self.output_dir)

    def _facts(
        self, found: Reconstructed, figures: dict[str, Any], configuration: dict[str, Any]
    ) -> FitFacts:
        geometry, error = found.raw.geometry, figures.get("fourier_error")
        verdict = None
        if error is not None:
            flat = figures["flat_object"]["fourier_error"]
            verdict = FitVerdict(error, flat, shot_noise_error(found.raw))
        return FitFacts(
            obj=found.obj,
            probe=found.probe,
            truth=found.truth,
            positions_px=found.positions_px,
            pixel_m=pair(None if geometry is None else geometry.object_pixel_m),
            figures=figures,
            history=self.history,
            verdict=verdict,
            configuration=configuration,
            command=self.command,
        )

    def _write_product(self, path: Path, found: Reconstructed) -> None:
        known = found.raw.geometry.known() if found.raw.geometry else {}
        if not {"wavelength_m", "distance_m", "object_pixel_m"} <= set(known):
            return
        losses = np.array(self.history["training"])
        try:
            write_product(path, found.raw, found.obj, found.probe, losses=losses)
        except MissingDependencyError as error:
            logger.info("product.h5 is not written: %s", error)


def said(figures: dict[str, Any]) -> list[str]:
    """The figures of metrics.json in words, a line for each part of the data."""
    parts = {"training": figures} if "fourier_error" in figures else {}
    parts |= {
        name: figures[name] for name in ("validation", "test", "predicted") if name in figures
    }
    lines = {name: in_words(each, figures["compared_with"]) for name, each in parts.items()}
    return [line if len(lines) == 1 else f"{name}: {line}" for name, line in lines.items()]


def _title(figures: dict[str, Any], name: str) -> str:
    ran = name
    if "epochs" in figures:
        ran = f"{name}: {figures['epochs']} epochs in {figures['seconds']:.1f} s"
    lines = (line for part in said(figures) for line in textwrap.wrap(part, _TITLE_WIDTH))
    return "\n".join([ran, *lines])


def _configuration(trainer: pl.Trainer, model: pl.LightningModule) -> dict[str, Any]:
    """Options of seed, trainer, model and data, as far as they are known."""
    data = getattr(trainer, "datamodule", None)
    seed = os.environ.get("PL_GLOBAL_SEED")
    return {
        "seed_everything": None if seed is None else int(seed),
        "trainer": {
            name: getattr(trainer, name)
            for name in ("max_epochs", "precision", "num_devices", "num_nodes", "gradient_clip_val")
        },
        "model": {"class_path": type(model).__name__, "init_args": dict(model.hparams)},
        "data": dict(getattr(data, "hparams", {})),
    }


def _stem(found: Reconstructed) -> str:
    return "scan in memory" if found.raw.path is None else found.raw.path.name.partition(".")[0]


def _flattened(figures: dict[str, Any]) -> dict[str, Any]:
    """Nested names joined by a slash."""
    flat: dict[str, Any] = {}
    for name, value in figures.items():
        if isinstance(value, dict) and name != "hyperparameters":
            flat |= {f"{name}/{inner}": each for inner, each in _flattened(value).items()}
        else:
            flat[name] = value
    return flat


def _datamodule(trainer: pl.Trainer) -> object:
    return getattr(trainer, "datamodule", None)
