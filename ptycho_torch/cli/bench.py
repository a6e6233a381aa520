"""``ptycho-torch bench``: hands over to the benchmarks of a source checkout."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import ptycho_torch
from ptycho_torch.data.errors import OptionError, naming


def bench(options: argparse.Namespace) -> None:
    """Run the benchmarks that lie beside the package in a source checkout."""
    root = Path(ptycho_torch.__file__).parents[1]
    if not (root / "benchmarks" / "__main__.py").is_file():
        with naming(root):
            raise OptionError(
                "benchmarks/", "missing", "a source checkout", action="Run it from a clone"
            )
    command = [sys.executable, "-m", "benchmarks", *options.arguments]
    raise SystemExit(subprocess.run(command, cwd=root, check=False).returncode)
