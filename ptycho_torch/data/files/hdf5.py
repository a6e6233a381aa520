"""HDF5 files opened for reading without trusting them.

Owns the way to an object through links, and turning whatever h5py raises into one line. The library
is never left to follow a link into another file by itself; the sources of a virtual dataset, which
it does open, are each opened and checked here first. Knows no meaning of names or numbers.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import (
    PtychoTorchError,
    ScanFileError,
    ScanFileNotFoundError,
    ScanKeyError,
    naming,
)
from ptycho_torch.data.files.hdf5_array import Hdf5Array, described, require_h5py, require_numbers
from ptycho_torch.data.files.hdf5_virtual import checked_sources
from ptycho_torch.data.files.mapping import FileState, opened, require_unchanged
from ptycho_torch.data.files.zip_archive import MODERATE_BYTES, damaged

logger = logging.getLogger(__name__)

SUFFIXES = (".h5", ".hdf5", ".hdf", ".cxi", ".nxs", ".ptyd")
MOST_NAMES = 4096

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_MOST_LINKS = 16
_MOST_FILES = 256


class Hdf5File:
    """An open HDF5 file; names are paths in it, as ``/entry/data``.

    Made by :func:`opened_hdf5`. Links into other files are followed where ``links`` allows it, to
    files in the folder of this one and below; what lies there names its own file.
    """

    def __init__(self, path: Path, state: FileState, root: Any, files: _Linked | None) -> None:
        self.path = path
        self.state = state
        self._root = root
        self._files = files

    def __contains__(self, name: str) -> bool:
        """Whether there is an object of this name; a link that leads nowhere counts as none."""
        try:
            self._find(name)
        except (ScanKeyError, ScanFileNotFoundError):
            return False
        return True

    def names(self, group: str = "/") -> list[str]:
        """Names in a group, in order of the alphabet and of numbers; too many: ScanFileError."""
        file, found = self._find(group)
        with naming(file.path), _speaking(group):
            if not hasattr(found, "keys"):
                return []
            if len(found) > MOST_NAMES:
                raise ScanFileError(group, f"{len(found)} names", f"at most {MOST_NAMES}")
            return sorted(found.keys(), key=_in_order)

    def dataset(self, name: str) -> Hdf5Array:
        """Describe a dataset of numbers.

        ScanKeyError: there is none. ScanFileError: it holds no plain numbers, they lie in another
        file or in chunks too large for memory, or were never written.
        """
        file, found = self._find(name)
        with naming(file.path), _speaking(name):
            return file._described(found, name)

    def read_array(self, name: str, max_bytes: int = MODERATE_BYTES) -> NDArray[Any]:
        """A dataset as an array of its own in native byte order; one of more bytes is refused."""
        file, found = self._find(name)
        with naming(file.path), _speaking(name):
            array = file._described(found, name)
            if array.nbytes > max_bytes:
                raise ScanFileError(name, f"{array.nbytes} bytes", f"at most {max_bytes} bytes")
            if (missing := array.nbytes - array.written_bytes) > 0:
                logger.warning("%s: %s: %d bytes never written", file.path, name, missing)
            out = np.empty(array.shape, array.dtype)
            if out.size:
                found.read_direct(out)
            array.require_sources()
            return out

    def read_text(self, name: str) -> str:
        """A dataset that is one text."""
        file, found = self._find(name)
        with naming(file.path), _speaking(name):
            if (
                getattr(found, "is_virtual", True)
                or found.dtype.kind not in "SO"
                or found.size != 1
            ):
                raise ScanFileError(name, "no text", "one text")
            return _text(_small(found, name)[()], name)

    def read_attr(self, name: str, attribute: str, default: Any = None) -> Any:
        """An attribute of an object: text, a number or an array; ``default`` where it lacks it."""
        file, found = self._find(name)
        label = f"{name}@{attribute}"
        with naming(file.path), _speaking(label):
            if attribute not in found.attrs:
                return default
            held = _small(found.attrs.get_id(attribute), label)
            if held.dtype.kind in "SO":
                value = found.attrs[attribute]
                return _text(value.item() if isinstance(value, np.ndarray) else value, label)
            require_numbers(held.dtype, label)
            array = np.asarray(found.attrs[attribute])
            return array.item() if array.ndim == 0 else array

    def part_reader(self, name: str) -> Callable[[tuple[slice, ...], NDArray[Any]], None]:
        """What reads a part of a dataset that :meth:`dataset` described into an array."""
        file, found = self._find(name)

        def read(part: tuple[slice, ...], out: NDArray[Any]) -> None:
            with naming(file.path), _speaking(name):
                found.read_direct(out, part)

        return read

    def require_unchanged(self) -> None:
        """Refuse a file that is not the one that was opened."""
        require_unchanged(self.path, self.state)

    def _find(self, name: str) -> tuple[Hdf5File, Any]:
        """The object of this name and its file; every link is looked at before it is used."""
        file: Hdf5File = self
        with ExitStack() as named:
            named.enter_context(_speaking(name))
            place, links, parts = file._root, 0, _parts(name)
            while parts:
                part = parts.pop(0)
                target = _link(place, part, name)
                if target is None:
                    place = place[part]
                    continue
                links += 1
                if links > _MOST_LINKS:
                    raise ScanFileError(name, f"over {_MOST_LINKS} links in a row", "a dataset")
                filename, inside = target
                if filename is not None:
                    file = file.linked(filename, name)
                if filename is not None or inside.startswith("/"):
                    place = file._root
                parts = _parts(inside) + parts
            return file, place

    def _described(self, found: Any, name: str) -> Hdf5Array:
        """A dataset of this file; of a virtual one the sources first: its shape may be theirs."""
        if not getattr(found, "is_virtual", False):
            return described(found, name, self.path, self.state)
        with ExitStack() as held:
            sources, given = checked_sources(found, name, _Sources(self, name, held))
            return described(found, name, self.path, self.state, sources, given)

    def linked(self, filename: str, name: str, action: str = "") -> Hdf5File:
        """The file that the object ``name`` leads to, open as long as this one.

        ScanFileError, ScanFileNotFoundError: it lies outside the folder of this file, links are not
        allowed, or there is none.
        """
        if self._files is None:
            found, allowed = f"a link into {filename}", "no link into another file"
            raise ScanFileError(name, found, allowed, file=self.path)
        return self._files.opened(self._beside(filename, name, "a link into", action))

    def _beside(self, filename: str, name: str, what: str, action: str = "") -> Path:
        """The path of a file that this one names, in its folder or below; else a ScanFileError."""
        folder = os.path.realpath(self.path.parent)
        target = self.path.parent / filename
        parts = Path(filename).parts
        inside = Path(os.path.realpath(target)).is_relative_to(folder)
        if Path(filename).is_absolute() or ".." in parts or not inside:
            found, wanted = f"{what} {filename}", "a file in this folder"
            raise ScanFileError(name, found, wanted, action=action, file=self.path)
        return target


class _Linked:
    """The other files of one opening, each open once until its end."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._open: dict[Path, Hdf5File] = {}

    def opened(self, path: Path) -> Hdf5File:
        if path not in self._open:
            if len(self._open) >= _MOST_FILES:
                raise ScanFileError("links", f"into over {_MOST_FILES} files", "fewer")
            self._open[path] = self._stack.enter_context(_opened(path, None, self))
        return self._open[path]


class _Sources:
    """The datasets that a virtual one is made of, one other file open at a time."""

    def __init__(self, file: Hdf5File, name: str, held: ExitStack) -> None:
        self._file, self._name, self._held = file, name, held
        self._open: tuple[str, Hdf5File] = (".", file)

    def __call__(self, filename: str, inside: str) -> Hdf5Array:
        if filename == ".":
            place = self._file
        else:
            if filename != self._open[0]:
                self._held.close()
                path = self._file._beside(filename, self._name, "made from")
                self._open = filename, self._held.enter_context(_opened(path, None, None))
            place = self._open[1]
        file, found = place._find(inside)
        with naming(file.path), _speaking(inside):
            if file is not place or getattr(found, "is_virtual", False):
                raise ScanFileError(inside, "no numbers of this file", "the sources' own numbers")
            return described(found, inside, file.path, file.state)


@contextmanager
def opened_hdf5(
    path: Path, expected: FileState | None = None, *, links: bool = False
) -> Iterator[Hdf5File]:
    """Open an HDF5 file, and name it in every PtychoTorchError raised inside.

    ``expected`` is the state it must be in; it may not change until the block ends. ``links``
    allows links into other files of its folder. ScanFileNotFoundError, ScanFileError: there is
    none, or it cannot be read. MissingDependencyError: h5py is not installed.
    """
    with ExitStack() as stack:
        yield stack.enter_context(_opened(path, expected, _Linked(stack) if links else None))


def is_hdf5(stream: BinaryIO) -> bool:
    """Whether an open file has the signature of HDF5, also behind a user block."""
    size, place = stream.seek(0, os.SEEK_END), 0
    while place + len(_SIGNATURE) <= size:
        stream.seek(place)
        if stream.read(len(_SIGNATURE)) == _SIGNATURE:
            return True
        place = max(512, 2 * place)
    return False


@contextmanager
def _opened(path: Path, expected: FileState | None, files: _Linked | None) -> Iterator[Hdf5File]:
    h5py = require_h5py()
    with opened(path, expected) as stream, ExitStack() as held:
        state = FileState.of(os.fstat(stream.fileno()))
        if not is_hdf5(stream):
            raise ScanFileError("file", "no HDF5 file", "one")
        with _speaking("file"):
            root = held.enter_context(h5py.File(path, "r", locking="best-effort"))
            handle = root.id.get_vfd_handle()
            if state.changes(FileState.of(os.fstat(handle))):
                raise ScanFileError("file", "replaced while it was opened", "at rest")
        yield Hdf5File(path, state, root, files)


@contextmanager
def _speaking(name: str) -> Iterator[None]:
    """Turn whatever h5py raises into one line; of a damaged file that may be anything."""
    try:
        yield
    except PtychoTorchError:
        raise
    except MemoryError as error:
        raise ScanFileError(name, "more than fits in memory", "less") from error
    except Exception as error:
        reason = str(error.args[0] if error.args else error).splitlines()
        found = f"unreadable ({reason[0] if reason else type(error).__name__})"
        raise damaged(name, found, "readable HDF5") from error


def _parts(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".")]


def _in_order(name: str) -> list[Any]:
    """Sorts frames_9 before frames_10: texts by letters, the digits between them by value."""
    return [int(p) if p.isdecimal() else p for p in re.split(r"([0-9]+)", name)]


def _link(place: Any, part: str, name: str) -> tuple[str | None, str] | None:
    """File and path that a soft or external link leads to; None for the object itself."""
    import h5py

    key = part.encode(errors="surrogateescape")
    if not isinstance(place, h5py.Group) or not place.id.links.exists(key):
        raise ScanKeyError(name, "missing", "in the file")
    kind = place.id.links.get_info(key).type
    if kind == h5py.h5l.TYPE_HARD:
        return None
    if kind not in (h5py.h5l.TYPE_SOFT, h5py.h5l.TYPE_EXTERNAL):
        raise ScanFileError(name, "a link of an unknown kind", "a dataset")
    value = place.id.links.get_val(key)
    if kind == h5py.h5l.TYPE_SOFT:
        return None, os.fsdecode(value)
    filename, inside = map(os.fsdecode, value)
    return filename, inside


def _small(held: Any, name: str, most: int = 1 << 20) -> Any:
    """What holds texts or numbers, after a look at how many."""
    nbytes = math.prod(held.shape or (1,)) * held.dtype.itemsize
    if nbytes > most:
        raise ScanFileError(name, f"{nbytes} bytes", f"at most {most} bytes")
    return held


def _text(value: Any, name: str) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if not isinstance(value, str):
        raise ScanFileError(name, "no text", "one text")
    return str(value)
