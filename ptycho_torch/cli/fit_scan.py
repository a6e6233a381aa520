"""``ptycho-torch fit SCAN``: a scan to a picture and a verdict, without a configuration."""

from __future__ import annotations

import argparse
import json
import math
import shlex
from pathlib import Path

from lightning.pytorch import Trainer, seed_everything

from ptycho_torch.cli.scans import reading, require_one_scan
from ptycho_torch.cli.training import without_chatter
from ptycho_torch.data.config import GroupingConfig, check_integer
from ptycho_torch.data.errors import ScanError, shown
from ptycho_torch.data.plausibility import Verdict, warn_of
from ptycho_torch.data.raw_data import RawData, read_scan
from ptycho_torch.datamodule import PtychoDataModule
from ptycho_torch.models.object_fit import ObjectFit
from ptycho_torch.results.flat_object import FitVerdict, shot_noise_error
from ptycho_torch.results.report import ReconstructionReport, said

LEARNING_RATE = 0.15
BATCH = 16
FEWEST_STEPS = 400
FEWEST_EPOCHS, MOST_EPOCHS = 8, 60


def fit(options: argparse.Namespace) -> None:
    """Fit object and probe, leave picture, arrays and figures, and say how good they are."""
    check_integer("--epochs", options.epochs, minimum=1, optional=True)
    require_one_scan(options.scan)
    given = reading(options)
    raw = read_scan(options.scan, **given)
    require_far_field(raw)
    verdicts = warn_of(raw, given["corrections"])
    out = options.out or Path("outputs") / options.scan.name.partition(".")[0]
    with without_chatter():
        epochs = options.epochs or epochs_for(len(raw))
        command = shlex.join(["ptycho-torch", *options.words])
        reconstruct(raw, out, epochs=epochs, modes=options.modes, command=command)
    figures = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    verdict = FitVerdict(
        figures["fourier_error"],
        figures["flat_object"]["fourier_error"],
        shot_noise_error(raw),
    )
    if figures["compared_with"] is not None:
        print(*said(figures), sep="\n")
    print(verdict)
    print(f"picture: {shown(out / 'reconstruction.png')}")
    print(f"page: {shown(out / 'report.html')}")
    print(f"next: {next_command(options, verdict, verdicts)}")


def require_far_field(raw: RawData) -> None:
    """Refuse near-field frames, which the far-field model of a fit cannot explain.

    Raises
    ------
    ScanError
        The geometry says near field.
    """
    if raw.geometry is not None and raw.geometry.near_field:
        raise ScanError(
            "geometry",
            "near field",
            "far field: a fit models a frame as the Fourier transform of the exit wave",
            action="Reconstruct it with a near-field program",
            file=raw.path,
        )


def epochs_for(n_frames: int) -> int:
    """So many that a short scan gets enough steps."""
    steps = math.ceil(n_frames / BATCH)
    return min(max(math.ceil(FEWEST_STEPS / steps), FEWEST_EPOCHS), MOST_EPOCHS)


def reconstruct(
    raw: RawData, out: Path, *, epochs: int, modes: int | None, command: str = ""
) -> None:
    """Fit object and probe of a scan and write the report into a folder."""
    report = ReconstructionReport(str(out))
    report.command = command
    seed_everything(0, verbose=False)
    gridsize = 2 if len(raw) > 6 else 1
    data = PtychoDataModule(
        raw,
        batch_size=BATCH,
        split="none",
        ground_truth="none",
        grouping=GroupingConfig(gridsize=gridsize, neighbor_count=min(6, max(1, len(raw) - 1))),
    )
    modes = None if modes is None else max(modes, len(data.initial_probe))
    trainer = Trainer(
        max_epochs=epochs,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=out,
        callbacks=[report],
    )
    model = ObjectFit(learning_rate=LEARNING_RATE, schedule="cosine", n_modes=modes)
    trainer.fit(model, datamodule=data)


def next_command(options: argparse.Namespace, verdict: FitVerdict, verdicts: list[Verdict]) -> str:
    """What to type after a fit of so good an error, with the options that the scan was read by."""
    scan = shlex.join([str(options.scan), *_as_typed(options)])
    if verdicts and verdict.share > 0.45:
        return f"see the first warning: {verdicts[0].action}"
    if verdict.share > 0.75:
        return f"ptycho-torch inspect {scan} --orientations"
    if verdict.share > 0.2 and (options.modes or 1) < 3:
        return f"ptycho-torch fit {scan} --modes 3"
    return f"ptycho-torch inspect {scan} --png scan.png"


def _as_typed(options: argparse.Namespace) -> list[str]:
    """The words after SCAN, without those that only a fit has."""
    words = list(options.words[2:])
    for name in ("--out", "--epochs", "--modes"):
        for place in range(len(words) - 1, -1, -1):
            if words[place] == name:
                del words[place : place + 2]
            elif words[place].startswith(f"{name}="):
                del words[place]
    return words
