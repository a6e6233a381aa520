"""Run the campaign: ``python -m tests.torch.campaign [--quick] [--only NAME ...] [--record]``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from .experiments import EXPERIMENTS, ON_DISK
from .record import save, timed, write_table

ROOT = Path(__file__).parents[3]
KEPT = ROOT / "outputs" / "campaign"
PAGE = ROOT / "docs" / "explanation" / "reliability.md"


def main() -> int:
    """Run what was asked for; 1 when a figure was broken."""
    parser = argparse.ArgumentParser(prog="campaign", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds: about a minute")
    parser.add_argument("--only", nargs="+", choices=sorted(EXPERIMENTS), metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true", help=f"write the table into {PAGE.name}")
    parser.add_argument("--list", action="store_true", help="name the experiments")
    options = parser.parse_args()
    if options.list:
        print("\n".join(EXPERIMENTS))
        return 0
    broken = 0
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with (
        tempfile.TemporaryDirectory(prefix="campaign-") as disk,
        tempfile.TemporaryDirectory(prefix="campaign-", dir=memory) as fast,
    ):
        os.environ["XDG_CACHE_HOME"] = str(Path(disk) / "user_cache")
        for name in options.only or EXPERIMENTS:
            experiment, rounds, few = EXPERIMENTS[name]
            place = Path(disk if name in ON_DISK else fast) / name
            place.mkdir()
            count = few if options.quick else rounds
            outcome = timed(lambda e=experiment, p=place, c=count: e(p, c, options.seed))
            print(f"{name}: {outcome}", flush=True)
            broken += bool(outcome.failures)
            if not options.quick:
                save(KEPT, name, outcome)
    if options.record:
        write_table(KEPT, list(EXPERIMENTS), PAGE)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
