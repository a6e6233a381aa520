"""A limit on the memory of this process and its page cache, where the system lets us set one."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONTROLLER = Path("/sys/fs/cgroup/memory")


@contextmanager
def memory_limit(limit: int) -> Iterator[bool]:
    """Move this process into a control group (version 1) of ``limit`` bytes of its own.

    What it had before counts for the group it came from. Yields whether there is such a limit;
    there is none of 0 bytes.
    """
    if not limit:
        yield False
        return
    group = CONTROLLER / f"ptycho-torch-bench-{uuid.uuid4().hex}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit))
    except OSError:
        if group.exists():
            group.rmdir()
        yield False
        return
    before = _group_of_this_process()
    (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield True
    finally:
        (before / "cgroup.procs").write_text(str(os.getpid()))
        (group / "memory.force_empty").write_text("0")
        group.rmdir()


def _group_of_this_process() -> Path:
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return CONTROLLER / path.lstrip("/")
    return CONTROLLER
