"""``ptycho-torch init``: a folder to start from, everything in it ready to run."""

from __future__ import annotations

import argparse
from importlib.resources import files

from ptycho_torch.data.errors import OptionError, shown
from ptycho_torch.data.files.atomic_write import atomic_write
from ptycho_torch.simulation.scan import simulate_scan

SCAN = "scan.npz"
TEXTS = ("README.md", "fit.yaml", "own_model.py", "own_model.yaml")


def init(options: argparse.Namespace) -> None:
    """Write a small simulated scan, two configurations, a network and commands to try.

    Raises
    ------
    OptionError
        One of the files is there already, or a file in the place of DIR; nothing is written then.
    """
    folder, action = options.dir, "Name another folder: ptycho-torch init DIR"
    if folder.exists() and not folder.is_dir():
        raise OptionError("DIR", "a file", "a folder, or none yet", action=action, file=folder)
    for name in (SCAN, *TEXTS):
        if (folder / name).exists() or (folder / name).is_symlink():
            raise OptionError("file", "there already", "none", action=action, file=folder / name)
    folder.mkdir(parents=True, exist_ok=True)
    simulate_scan(n_frames=400, N=32, photons=1e5, seed=0).to_file(folder / SCAN)
    for name in TEXTS:
        with atomic_write(folder / name) as handle:
            handle.write(files("ptycho_torch.cli").joinpath("starter", name).read_bytes())
    for name in (SCAN, *TEXTS):
        print(shown(folder / name))
    go = "" if folder.samefile(".") else f"cd {shown(folder)} && "
    print(f"next: {go}ptycho-torch fit {SCAN}, then the other commands of README.md")
