"""What a process holds that belongs to no file."""

from __future__ import annotations

from pathlib import Path


def anonymous_bytes(pid: int | str) -> int:
    """Resident anonymous memory of a process, in bytes; 0 once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0
