"""Which probe a scan that was read begins with: its file's, the average pattern, or another.

Every reader gives what its file has, None where that is nothing; the choice is made here, once.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import OptionTypeError, ScanFileError, ScanKeyError, naming
from ptycho_torch.data.files.mapping import opened
from ptycho_torch.data.files.npy_header import shape_text
from ptycho_torch.data.initial_probe import FROM_PATTERN, initial_probe
from ptycho_torch.data.readout import Readout
from ptycho_torch.data.scan import Scan

logger = logging.getLogger(__name__)

Probe = str | Path | NDArray[Any]

RECONSTRUCTION = frozenset({"object", "probe"})
"""Arrays of the file in which a fit leaves what it found."""


def with_probe(scan: Scan, probe: Any, read: Callable[[Path], Scan]) -> Scan:
    """The scan with the probe that is asked for; ``read`` opens another scan for its probe.

    ``"file"``: as read; a ScanKeyError where the file has none. ``"initial"``: the average pattern
    without defocus; ``"auto"``: the file's, else that. Else an array, or the path of an ``.npy``,
    of a scan or of the ``reconstruction.npz`` of a fit.
    """
    if isinstance(probe, str) and probe == "auto":
        probe = "file" if scan.has_probe else "initial"
    if isinstance(probe, str) and probe == "file":
        if not scan.has_probe:
            raise ScanKeyError(
                "probeGuess",
                "missing",
                "a probe",
                action="Pass --probe initial (probe='initial') for the average pattern, or a path",
            )
        return scan
    metadata = {k: v for k, v in (scan.metadata or {}).items() if k not in FROM_PATTERN}
    if isinstance(probe, str) and probe == "initial":
        made = initial_probe(scan)[0]
        return scan.replacing_probe(made, {**metadata, **FROM_PATTERN})
    if isinstance(probe, str | Path):
        metadata["probe_guess"] = str(probe)
        return scan.replacing_probe(probe_of(Path(probe).absolute(), read), metadata)
    if not isinstance(probe, np.ndarray):
        expected = "'file', 'initial', an array (N, N) or (P, N, N), or a path"
        raise OptionTypeError("probe", type(probe).__name__, expected)
    return scan.replacing_probe(probe, metadata)


def keeps_probe(readout: Readout, path: Path | None, orientation: str | None = None) -> bool:
    """Whether a file's probe is one of the frames as they are read out; a log line where it is not.

    One rule for all readers: frames of another size have another probe, and of frames that the
    detector's ``orientation`` turns no file says whether its probe turns with them.
    """
    turn = readout.orientation if orientation is None else orientation
    size = readout.size, readout.size
    if readout.frame_shape == size and turn == "as stored":
        return True
    logger.warning(
        "%s: the probe is left out: it is of frames %s, and they are read as %s, %s; "
        "--probe FILE (probe=) gives one, and takes that of this file as it is",
        path,
        shape_text(readout.frame_shape),
        shape_text(size),
        turn,
    )
    return False


def probe_of(path: Path, read: Callable[[Path], Scan]) -> NDArray[Any]:
    """The probe in an ``.npy``, of a reconstruction as ``fit`` writes it, or of a scan."""
    if path.suffix == ".npy":
        return array_in_npy(path)
    with naming(path), opened(path) as stream:
        if zipfile.is_zipfile(stream):
            with zipfile.ZipFile(stream) as archive:
                if {Path(name).stem for name in archive.namelist()} == RECONSTRUCTION:
                    with archive.open("probe.npy") as member:
                        return _loaded(member)
    return read(path).probeGuess


def array_in_npy(path: Path) -> NDArray[Any]:
    """The array of an ``.npy`` that somebody names for an option; ScanFileError: it holds none."""
    with naming(path), opened(path) as stream:
        return _loaded(stream)


def _loaded(stream: IO[bytes]) -> NDArray[Any]:
    try:
        loaded: NDArray[Any] = np.load(stream, allow_pickle=False)
    except (ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise ScanFileError("the .npy file", f"unreadable ({error})", "an array") from error
    return loaded
