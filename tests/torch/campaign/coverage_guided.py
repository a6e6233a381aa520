"""Coverage-guided fuzzing of the readers, where atheris installs (``pip install atheris``).

``python -m tests.torch.campaign.coverage_guided scan|cache [libFuzzer options]`` from the
repository root, e.g. ``-max_total_time=300``. It ends at the first input that raises anything but
the package's errors, and leaves that input behind.
"""

from __future__ import annotations

import random
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["ptycho_torch.data"]):
    import numpy as np

    from ptycho_torch.data.caches import groups_cache
    from ptycho_torch.data.caches.groups_file import read_cache
    from ptycho_torch.data.caches.groups_key import CacheKey
    from ptycho_torch.data.errors import PtychoTorchError
    from ptycho_torch.data.files import zip_archive
    from ptycho_torch.data.raw_data import RawData

from .hostile import check_use, scan_bases, use_scan
from .mutations import Base, mutate, read_base
from .scans import CACHE_NAME, GROUPING, write_scan

LONGEST = 1 << 18


def main() -> None:
    """Fuzz one of the two."""
    kind, *options = sys.argv[1:]
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm"))
    corpus = folder / "corpus"
    corpus.mkdir()
    zip_archive.MODERATE_BYTES = 1 << 20
    path = folder / ("scan.npz" if kind == "scan" else CACHE_NAME)
    if kind == "scan":
        bases = scan_bases(folder, 0)
        target = _scan_target(path)
    else:
        bases, target = _cache_target(folder, path)
    for number, base in enumerate(bases):
        (corpus / str(number)).write_bytes(base.content)

    def mutator(data: bytes, longest: int, seed: int) -> bytes:
        """Half the time by structure, else by libFuzzer's own ways."""
        rng = random.Random(seed)
        if rng.random() < 0.5:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    base: Base = read_base(bytes(data))
                except Exception:
                    base = rng.choice(bases)
                return mutate(base, rng)[1][:longest]
        return bytes(atheris.Mutate(data, longest))

    arguments = [sys.argv[0], *options, f"-max_len={LONGEST}", "-timeout=5"]
    arguments += [f"-artifact_prefix={folder}/", str(corpus)]
    atheris.Setup(arguments, target, custom_mutator=mutator)
    atheris.Fuzz()


def _scan_target(path: Path) -> Any:
    def target(data: bytes) -> None:
        path.write_bytes(data)
        try:
            check_use(use_scan(path, "counts"))
        except PtychoTorchError as error:
            assert "\n" not in str(error)

    return target


def _cache_target(folder: Path, path: Path) -> tuple[list[Base], Any]:
    raw = RawData.from_file(write_scan(folder / "scan", compressed=False, n_frames=60, N=8))
    raw.group(GROUPING)
    made = folder / "scan" / CACHE_NAME
    key = CacheKey.of(raw.xcoords, raw.ycoords, GROUPING.gridsize, GROUPING.neighbor_count)
    truth = read_cache(made, key)
    assert truth.state == "usable" and truth.replaceable

    def target(data: bytes) -> None:
        path.write_bytes(data)
        found = read_cache(path, key)
        groups_cache.verify(path, raw.xcoords, raw.ycoords)
        # A foreign file without our digest is believed on its zip checksums, so a fuzzer that
        # writes those right can give other groups of the same form, and nothing worse.
        if found.state == "usable" and found.groups_origin == "computed":
            assert np.array_equal(found.arrays.all_groups, truth.arrays.all_groups)

    return [read_base(made.read_bytes())], target


if __name__ == "__main__":
    main()
