"""Where a cache is built: the first place that takes it.

Owns the way from one place to the next, and what makes a place unfit before anything is computed: a
directory that cannot be written, a lock that cannot be had, a name that is taken. Knows nothing of
what is built.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from ptycho_torch.data.caches.names import place_mode
from ptycho_torch.data.errors import ScanFileError
from ptycho_torch.data.files.build_lock import build_lock

_Built = TypeVar("_Built")


class PlaceRefusedError(ScanFileError):
    """A place takes no cache; raised while building, it sends the cache to the next one."""


def built_at_first(
    places: Sequence[Path],
    policy: str | os.PathLike[str],
    timeout_s: float,
    check: Callable[[Path], None],
    build: Callable[[Path, str], _Built],
) -> _Built:
    """What ``build(place, why)`` gives under the lock of the first place that takes a cache.

    ``why`` says why earlier places do not. ``check(place)`` raises a ScanFileError where what has
    the name may not be replaced. A PlaceRefusedError, whose cause is the last refusal, says that no
    place takes it; a CacheLockTimeoutError that another process was building for longer than
    ``timeout_s`` seconds.
    """
    refusals: list[ScanFileError] = []
    for number, place in enumerate(places):
        with contextlib.ExitStack() as held:
            try:
                check(place)
                held.enter_context(_building(place, timeout_s, place_mode(number, policy)))
                check(place)  # it may have come while this process waited
            except ScanFileError as error:
                refusals.append(error)
                continue
            try:
                return build(place, "; ".join(map(str, refusals)))
            except PlaceRefusedError as error:
                refusals.append(error)
    refused = " ".join(map(str, refusals))
    advice = "Set XDG_CACHE_HOME to a directory to write in, or choose 'off'"
    raise PlaceRefusedError(f"{refused} {advice}.") from refusals[-1]


@contextlib.contextmanager
def _building(place: Path, timeout_s: float, mode: int | None) -> Iterator[None]:
    """Hold the lock of a place; its directory is made with ``mode``, or has to be there (None)."""
    directory = place.parent
    try:
        if mode is not None:
            directory.mkdir(mode, parents=True, exist_ok=True)
        # The superuser could write; whoever took the permission away meant everybody.
        if not directory.stat().st_mode & 0o222:
            raise PermissionError(errno.EACCES, "read-only", str(directory))
        nowhere = place.is_symlink() and not place.exists()
    except OSError as error:
        found = f"not usable ({error.strerror or error})"
        raise ScanFileError("directory", found, "one to write in", file=directory) from error
    if nowhere:
        raise ScanFileError("file", "a link that leads nowhere", "a cache or no file", file=place)
    with build_lock(place, timeout_s):
        yield
