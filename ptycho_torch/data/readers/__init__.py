"""Readers: one scan format a module, all ending in a :class:`~ptycho_torch.data.scan.Scan`."""

from __future__ import annotations

from ptycho_torch.data.readers.reader import Reader
from ptycho_torch.data.readers.registry import (
    format_names,
    is_scan,
    read_file,
    register_reader,
    scan_suffixes,
)
from ptycho_torch.data.readers.scan_file import ScanFile

__all__ = [
    "Reader",
    "ScanFile",
    "format_names",
    "is_scan",
    "read_file",
    "register_reader",
    "scan_suffixes",
]
