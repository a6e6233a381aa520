"""Measurements that need a process of their own; :mod:`benchmarks.serve` is that process."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.anonymous_memory import anonymous_bytes

ROOT = Path(__file__).parents[1]

_SAMPLE_S = 0.002


class Child:
    """The measuring process as seen from here: requests out, results in.

    Attributes
    ----------
    import_seconds
        What importing cost there, by package.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serve"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._rest = b""
        self.import_seconds: dict[str, float] = self._line()

    def call(self, task: str, **arguments: Any) -> dict[str, Any]:
        """Run a task of :mod:`benchmarks.tasks` in a fork, and return its result.

        ``peak_anon`` is the most anonymous memory that the fork was seen to hold, in bytes.
        """
        assert self._process.stdin is not None
        request = json.dumps({"task": task, "arguments": arguments})
        self._process.stdin.write(request.encode() + b"\n")
        pid = self._line()["pid"]
        peak = 0
        while not self._readable(_SAMPLE_S):
            peak = max(peak, anonymous_bytes(pid))
        result = self._line()
        if "error" in result:
            raise RuntimeError(result["error"])
        return {**result, "peak_anon": peak}

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _readable(self, timeout: float) -> bool:
        if b"\n" in self._rest:
            return True
        ready, _, _ = select.select([self._process.stdout], [], [], timeout)
        return bool(ready)

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        while b"\n" not in self._rest:
            block = self._process.stdout.read(1 << 16)
            if not block:
                raise RuntimeError(f"the measuring process ended: {self._process.wait()}")
            self._rest += block
        line, _, self._rest = self._rest.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found
