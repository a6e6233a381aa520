"""Readers: one scan format a module, all ending in the same fields."""

from __future__ import annotations

from ptycho_torch.data.readers.fields import ScanFields
from ptycho_torch.data.readers.registry import format_names, read_fields

__all__ = ["ScanFields", "format_names", "read_fields"]
