"""Every format that can be read, and the choice between them.

A reader is one module: a function that recognises its files and one that reads them. A format of
this package is a line of ``BUILT_IN``; an installed package adds its own by an entry point of the
group ``ptycho_torch.readers`` that names a :class:`Reader`, and a program by
:func:`register_reader`. What a program registers is the one state that a module of ptycho_torch
keeps: readers are added to it, never taken out or replaced.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from ptycho_torch.data.caches.remote import is_remote, one_local_copy
from ptycho_torch.data.corrections import Corrections
from ptycho_torch.data.errors import (
    OptionError,
    OptionTypeError,
    PtychoTorchError,
    ScanFileError,
    naming,
)
from ptycho_torch.data.files.hdf5 import SUFFIXES
from ptycho_torch.data.files.mapping import FileState
from ptycho_torch.data.readers import (
    cxi,
    dectris,
    hdf5,
    npz,
    nsls2,
    ptychodus,
    ptyd,
    rosettasciio,
    tike,
)
from ptycho_torch.data.readers.measured import given_to_reader, measured
from ptycho_torch.data.readers.probe_choice import Probe, with_probe
from ptycho_torch.data.readers.reader import Reader
from ptycho_torch.data.readers.scan_file import ScanFile, open_scan_file
from ptycho_torch.data.scan import Scan

ENTRY_POINTS = "ptycho_torch.readers"

_A_READER = "a ptycho_torch.data.readers.Reader"

# In the order in which files are tried.
BUILT_IN: tuple[Reader, ...] = (
    Reader("npz", (".npz",), npz.recognises, npz.read_npz),
    Reader("tike", (".npz", ".npz.bz2"), tike.recognises, tike.read_tike),
    Reader(
        "ptychodus", (".npz", ".npy", *SUFFIXES), ptychodus.recognises, ptychodus.read_ptychodus
    ),
    Reader("cxi", (".cxi", ".h5", ".hdf5"), cxi.recognises, cxi.read_cxi),
    Reader("ptyd", (".ptyd",), ptyd.recognises, ptyd.read_ptyd),
    Reader("nsls2", (".h5", ".hdf5"), nsls2.recognises, nsls2.read_nsls2),
    Reader("dectris", (".h5", ".hdf5", ".nxs"), dectris.recognises, dectris.read_dectris),
    Reader(
        "rosettasciio",
        rosettasciio.SUFFIXES,
        rosettasciio.recognises,
        rosettasciio.read_rosettasciio,
    ),
    # Last: any HDF5 file is one to it, once a layout says what is where.
    Reader("hdf5", hdf5.SUFFIXES, hdf5.recognises, hdf5.read_hdf5),
)

_REGISTERED: list[Reader] = []


def register_reader(reader: Reader) -> None:
    """Let this process read one more format, wherever a scan is named.

    :func:`~ptycho_torch.read_scan` finds it by ``format=reader.name`` and, after the formats that
    were known before, by file name and content; so do datasets, directories, patterns, lists, and
    commands that this process runs by ``ptycho_torch.cli.main``. The command ``ptycho-torch`` of a
    shell imports nothing of yours: for it, name the reader as an entry point of the group
    ``ptycho_torch.readers`` of an installed package.

    A process that is started by ``spawn`` begins without it. Workers of a data loader do not miss
    it, because scans reach them opened. A process that opens scans itself, as every rank of a
    distributed run does, has to register it too: call this in a module that it imports, or at the
    top of the script, which ``spawn`` imports, and not under ``if __name__ == "__main__"``.

    Parameters
    ----------
    reader
        The format; its name is new.

    Raises
    ------
    OptionTypeError
        This is no :class:`~ptycho_torch.data.readers.Reader`.
    OptionError
        There is a reader of this name.
    """
    if not isinstance(reader, Reader):
        raise OptionTypeError("reader", type(reader).__name__, _A_READER)
    if reader.name in format_names():
        action = "While you change it, pass the reader itself: read_scan(path, format=reader)"
        raise OptionError("name of a Reader", f"{reader.name!r}, taken", "a new one", action=action)
    _REGISTERED.append(reader)


def readers() -> Iterator[Reader]:
    """Every reader: built-in, of installed packages, registered; last, that of any HDF5 file.

    An OptionError says that an entry point does not lead to a :class:`Reader`.
    """
    *special, any_hdf5 = BUILT_IN
    yield from special
    for point in entry_points(group=ENTRY_POINTS):
        try:
            reader = point.load()
        except Exception as error:  # the package is another's, and so is what it raises
            found = f"not to be loaded ({type(error).__name__}: {error})"
            raise _no_reader(point.value, found) from error
        if not isinstance(reader, Reader):
            raise _no_reader(point.value, type(reader).__name__)
        yield reader
    yield from tuple(_REGISTERED)
    yield any_hdf5


def scan_suffixes() -> tuple[str, ...]:
    """Endings of the names of files that a reader may know, lower case."""
    return tuple(sorted({suffix for reader in readers() for suffix in reader.suffixes}))


def format_names() -> tuple[str, ...]:
    """What ``format`` may be, ``"auto"`` apart."""
    return tuple(reader.name for reader in readers())


def read_file(
    path: str | Path,
    format: str | Reader = "auto",
    *,
    sidecar: str | Path = "auto",
    probe: Probe = "file",
    corrections: Corrections | None = None,
    **options: Any,
) -> Scan:
    """Read a scan in any registered format, through one opening of the file.

    ``format`` is a name of :func:`format_names`, ``"auto"``: chosen by file name and content, or a
    :class:`Reader` that is not registered.
    ``sidecar`` says where frames that cannot be mapped are unpacked to; formats read into memory
    ignore it. ``probe`` is ``"file"``, ``"initial"`` (the average pattern, with whatever the file
    has), an array, or the path of an ``.npy`` or a scan. ``bad_pixels`` is a mask (H, W) of the
    frames as stored, 0 = good, or the path of its ``.npy``, beside the file's. ``corrections`` are
    made of what the reader gives. ``options`` are those of the format's reader; one that is
    ``"auto"`` is left to a reader without it. Errors name file, field, what was found and what was
    expected.
    """
    if not isinstance(path, str | Path):
        raise OptionTypeError("path", type(path).__name__, "text or a Path")
    # Files are opened again later and by workers, by then perhaps in another directory.
    if is_remote(path):
        path = one_local_copy(path)
    if format == "auto" and "layout" in options:
        format = "hdf5"  # only it has layouts
    with naming(path), open_scan_file(Path(path).absolute()) as file:
        reader = _by_content(file) if format == "auto" else _by_name(format)
        given = {
            name: value
            for name, value in {**options, "sidecar": sidecar}.items()
            if name in reader.options or (name != "sidecar" and not _is_auto(value))
        }
        unknown = sorted(set(given) - {*reader.options, "detector", "bad_pixels"})
        if unknown:
            known = ", ".join(reader.options)
            raise OptionError(f"option of format {reader.name}", unknown[0], f"one of {known}")
        corrected = given_to_reader(reader, given, corrections or Corrections())
        scan = measured(reader, file, given, corrected, sidecar)
        made = corrected.of_probe(with_probe(scan, probe, read_file))
        made.frames.watch([(file.path, FileState.of(os.fstat(file.stream.fileno()))), *file.others])
        return made


def _is_auto(value: Any) -> bool:
    return isinstance(value, str) and value == "auto"


def is_scan(path: Path, options: Mapping[str, Any]) -> bool:
    """Whether a reader knows a file by name and content, and has been told what it needs."""
    name = path.name.lower()
    with naming(path), open_scan_file(path.absolute()) as file:
        for reader in readers():
            asks = reader.read is hdf5.read_hdf5 and "layout" not in options
            try:
                if not asks and name.endswith(reader.suffixes) and reader.knows(file):
                    return True
            except PtychoTorchError:  # damaged, or no archive after all
                continue
    return False


def _by_name(name: str | Reader) -> Reader:
    if isinstance(name, Reader):
        return name
    for reader in readers():
        if reader.name == name:
            return reader
    raise OptionError("format", repr(name), "one of auto, " + ", ".join(format_names()))


def _by_content(file: ScanFile) -> Reader:
    name = file.path.name.lower()
    fitting = []
    for reader in readers():
        if name.endswith(reader.suffixes):
            if reader.knows(file):
                return reader
            fitting.append(reader)
    if not fitting:
        endings = ", ".join(scan_suffixes())
        raise ScanFileError(
            "file name",
            repr(file.path.name),
            f"an ending among {endings}",
            action="If the name misleads, add --format NAME (format=NAME)",
        )
    # Its reader says best which keys are missing.
    return fitting[0]


def _no_reader(place: str, found: str) -> OptionError:
    return OptionError(f"entry point {place} of {ENTRY_POINTS}", found, _A_READER)
