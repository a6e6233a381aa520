"""Which probe a scan that was read begins with: its file's, the average pattern, or another.

Every reader gives what its file has, None where that is nothing; the choice is made here, once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import OptionTypeError, ScanFileError, ScanKeyError, naming
from ptycho_torch.data.files.mapping import opened
from ptycho_torch.data.initial_probe import FROM_PATTERN, initial_probe
from ptycho_torch.data.scan import Scan

Probe = str | Path | NDArray[Any]


def with_probe(scan: Scan, probe: Any, read: Callable[[Path], Scan]) -> Scan:
    """The scan with the probe that is asked for; ``read`` opens another scan for its probe.

    ``"file"``: as read; a ScanKeyError where the file has none. ``"initial"``: the average pattern
    without defocus; ``"auto"``: the file's, else that. Else an array, or the path of an ``.npy`` or
    of a scan.
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


def probe_of(path: Path, read: Callable[[Path], Scan]) -> NDArray[Any]:
    """The probe in an ``.npy``, or of a scan."""
    return array_in_npy(path) if path.suffix == ".npy" else read(path).probeGuess


def array_in_npy(path: Path) -> NDArray[Any]:
    """The array of an ``.npy`` that somebody names for an option; ScanFileError: it holds none."""
    with naming(path), opened(path) as stream:
        try:
            loaded: NDArray[Any] = np.load(stream, allow_pickle=False)
        except (ValueError, EOFError, MemoryError) as error:
            raise ScanFileError("the .npy file", f"unreadable ({error})", "an array") from error
    return loaded
