"""Scans of the package tike: ``.npz`` or ``.npz.bz2`` with ``data``, ``scan`` and ``probe``.

There frames are counts with the zero frequency at the corner, positions are (row, column) of the
patch's corner, and the probe has an arbitrary power (tike, ``tests/data`` and documentation). Such
files are small and are read into memory.
"""

from __future__ import annotations

import bz2
import io
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.config import check_integer
from ptycho_torch.data.errors import ScanError
from ptycho_torch.data.files.npy_header import shape_text
from ptycho_torch.data.files.zip_archive import ZipArchive, damaged
from ptycho_torch.data.frames import Frames, check_frame_values
from ptycho_torch.data.readers.object_pixels import MARGIN_PX
from ptycho_torch.data.readers.scan_file import ScanFile
from ptycho_torch.data.scan import AnyArray, Scan

KEYS = ("data", "scan", "probe")
DEFAULT_MAX_BYTES = 2 << 30
_BLOCK_BYTES = 1 << 20


def recognises(file: ScanFile) -> bool:
    """Whether a file is tike's: by name when compressed as a whole, else by its keys."""
    return _is_packed(file) or set(KEYS) <= set(file.archive.members)


def read_tike(file: ScanFile, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Scan:
    """Read a scan as tike stores it.

    Frames stay counts, with the zero frequency moved to (N//2, N//2). Positions are patch centres;
    where a patch would begin at a negative pixel, all are moved by one shift, kept as
    ``positions_shift_px`` (x, y) in the metadata, so that the first begins at pixel 2. The probe is
    scaled so that sum |P|**2 is the mean count per frame. A ``.bz2`` that unpacks to more than
    ``max_bytes``, and a scan with more bytes of frames, is refused.
    """
    check_integer("max_bytes", max_bytes, minimum=1)
    if _is_packed(file):
        archive = ZipArchive(_unpacked(file.stream, max_bytes))
    else:
        archive = file.archive
    for key in KEYS:
        archive.require(key)
    _check_size(archive, max_bytes)
    counts = _without_leading(archive, "data", "fiu", 3, "(1, M, N, N)")
    scan = _without_leading(archive, "scan", "fiu", 2, "(1, M, 2)")
    probe = _probe(archive)
    n_frames, height, width = counts.shape
    if height != width:
        raise ScanError("data shape", shape_text(counts.shape), "square frames")
    if scan.shape != (n_frames, 2):
        raise ScanError("scan shape", shape_text(scan.shape), f"({n_frames}, 2), as data")
    if probe.shape[-2:] != (height, width):
        raise ScanError("probe shape", shape_text(probe.shape), f"(..., {height}, {width})")
    check_frame_values(counts, field="data")
    frames = Frames.from_array(np.fft.fftshift(counts, axes=(1, 2)), measurement="counts")
    corners = scan[:, ::-1].astype(np.float64)
    # An origin in the middle of the object gives negative corners. No frame depends on the origin,
    # so such a scan is moved to where every patch lies within an array.
    shift = np.where(corners.min(axis=0) < 0, MARGIN_PX - corners.min(axis=0), 0.0)
    xcoords, ycoords = (corners + shift + width / 2).T.copy()
    return Scan(
        xcoords=xcoords,
        ycoords=ycoords,
        frames=frames,
        probeGuess=_scaled(probe, counts),
        metadata={
            "source": file.path.name,
            "format": "tike",
            "positions_shift_px": [float(shift[0]), float(shift[1])],
        },
        path=file.path,
    )


def _is_packed(file: ScanFile) -> bool:
    return file.path.name.lower().endswith(".bz2")


def _check_size(archive: ZipArchive, max_bytes: int) -> None:
    header = archive.header("data")
    if header.data_bytes > max_bytes:
        raise ScanError(
            "data",
            f"{header.data_bytes} bytes",
            f"at most max_bytes = {max_bytes}",
            action="Raise it: --option max_bytes=N (max_bytes=N)",
        )


def _without_leading(
    archive: ZipArchive, key: str, kinds: str, rank: int, wanted: str
) -> NDArray[np.generic]:
    """An array of ``rank`` axes; axes of length 1 before them are dropped."""
    header = archive.header(key)
    extra = len(header.shape) - rank
    if extra < 0 or any(length != 1 for length in header.shape[:extra]) or 0 in header.shape:
        raise ScanError(f"{key} shape", shape_text(header.shape), wanted)
    if header.dtype.kind not in kinds:
        raise ScanError(f"{key} dtype", header.dtype, "numbers")
    array = archive.read(key)
    if not np.isfinite(array).all():
        raise ScanError(key, "NaN or infinite in places", "finite numbers")
    return array.reshape(header.shape[extra:])


def _probe(archive: ZipArchive) -> AnyArray:
    """Modes (P, N, N), or (N, N) where there is one."""
    rank = min(3, len(archive.header("probe").shape))
    probe = _without_leading(archive, "probe", "c", max(2, rank), "(1, ..., modes, N, N)")
    return probe[0] if probe.ndim == 3 and len(probe) == 1 else probe


def _scaled(probe: AnyArray, counts: AnyArray) -> AnyArray:
    power = np.sum(np.abs(probe.astype(np.complex128)) ** 2)
    mean_counts = np.sum(counts, dtype=np.float64) / len(counts)
    if not power > 0 or not mean_counts > 0:
        what = "probe" if not power > 0 else "data"
        raise ScanError(what, "zero throughout", "some signal")
    scaled: AnyArray = (probe * np.sqrt(mean_counts / power)).astype(np.complex64)
    return scaled


def _unpacked(packed: BinaryIO, max_bytes: int) -> io.BytesIO:
    """The content of a bz2 stream; memory grows with it, up to ``max_bytes``."""
    content = io.BytesIO()
    decompressor = bz2.BZ2Decompressor()
    while not decompressor.eof:
        more = packed.read(_BLOCK_BYTES) if decompressor.needs_input else b""
        if decompressor.needs_input and not more:
            raise damaged("bz2 stream", "cut short", "a complete one")
        try:
            content.write(decompressor.decompress(more, _BLOCK_BYTES))
        except OSError as error:
            raise damaged("bz2 stream", "broken", "one that unpacks") from error
        if content.tell() > max_bytes:
            raise ScanError(
                "unpacked size",
                f"over {max_bytes} bytes",
                f"at most max_bytes = {max_bytes}",
                action="Raise it: --option max_bytes=N (max_bytes=N)",
            )
    return content
