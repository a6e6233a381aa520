"""A scan made ready ahead of training: mapped, checked to the last byte, grouped.

Owns the order of these and what becomes of caches when the frames turn out to be damaged. The first
use of a scan without preparation does the same, short of the check.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.caches.groups_file import read_cache
from ptycho_torch.data.caches.groups_key import CacheKey
from ptycho_torch.data.caches.names import CachePolicy, caches_of
from ptycho_torch.data.caches.scan_groups import ScanGroups
from ptycho_torch.data.config import GroupingConfig
from ptycho_torch.data.errors import ScanError, ScanFileError
from ptycho_torch.data.frames import Progress
from ptycho_torch.data.raw_data import RawData

logger = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")


def each_in_a_thread(
    work: Callable[[Item], Result], items: Sequence[Item], stopped: Event | None = None
) -> Iterator[Result]:
    """What ``work`` gives for each item, in order, done by as many threads as there are cores.

    The first error in order is raised; what has not begun by then is not done, and ``stopped``
    tells the rest. Reading, summing and searching leave the interpreter to other threads.
    """
    threads = min(os.cpu_count() or 1, len(items))
    if threads < 2:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        try:
            yield from pool.map(work, items)
        finally:
            if stopped is not None:
                stopped.set()


def prepare_scan(
    raw: RawData,
    config: GroupingConfig,
    *,
    cache: CachePolicy = "auto",
    progress: Progress | None = None,
) -> ScanGroups:
    """Map the frames of a whole scan, compare them with the file's checksum, and group it.

    Where energies are computed, that pass checks the frames; where they are in the cache, a pass of
    its own does, and a cache with others is made again. Frames in a bare ``.npy`` have no checksum.
    Options and errors are those of :meth:`RawData.group`; ``progress`` gets (bytes done, bytes in
    all) while frames are read.

    Raises
    ------
    ScanFileError
        The frames are not those that the file was written with. Caches beside the scan may hold
        energies of such frames: they are removed.
    """
    raw.frames.prepare(progress)
    checked = False

    def energies() -> NDArray[np.float64]:
        nonlocal checked
        checked = True
        try:
            return raw.frame_energies(check=True, progress=progress)
        except ScanError:
            # A value that cannot be may be damage; the checksum, at the end of the file, tells.
            raw.frames.verify()
            raise

    try:
        groups = raw.group(config, cache, energies=energies)
        # Kept ones may be those of damage that a good copy has replaced, under the same checksum.
        if not checked and not np.allclose(energies(), groups.frame_energies, rtol=1e-9, atol=0):
            _forget_energies(raw, cache)
            groups = raw.group(config, cache, energies=energies)
    except ScanFileError:
        _forget_energies(raw, cache)
        raise
    return groups


def _forget_energies(raw: RawData, cache: CachePolicy) -> None:
    """Remove our caches that may hold energies of damaged frames; they are made again."""
    if raw.path is None:
        return
    for path, name in caches_of(raw.path, cache):
        key = CacheKey.of(raw.xcoords, raw.ycoords, name.gridsize, name.neighbors)
        found = read_cache(path, key)
        of_part = found.state == "other" and name.of_part(raw.path.stem)
        if found.replaceable and (found.state == "usable" or of_part):
            done = "removed"
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # another user's, in a folder that keeps it
                done = f"not removed ({error.strerror}), do it"
            logger.warning("%s: %s, its energies may be those of damaged frames", path, done)
