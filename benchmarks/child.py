"""Measurements that need a process of their own.

``python -m benchmarks.child`` imports everything, then forks for each request that it reads, so
that a measurement starts in a fresh process and imports are measured apart from it.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

ROOT = Path(__file__).parents[1]

_SAMPLE_S = 0.002
_IMPORTS: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        "torch": ("torch",),
        "tensordict and Lightning": ("tensordict", "lightning.pytorch"),
        "SciPy and filelock": ("scipy.spatial", "filelock"),
        "ptycho_torch": ("ptycho_torch.datamodule", "benchmarks.tasks"),
    }
)


class Child:
    """The other side: requests out, results in.

    Attributes
    ----------
    import_seconds
        What importing cost there, by package.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.child"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._rest = b""
        self.import_seconds: dict[str, float] = self._line()

    def call(self, task: str, **arguments: Any) -> dict[str, Any]:
        """Run a task of :mod:`benchmarks.tasks` in a fork; its result.

        ``peak_anon`` is added: the most anonymous memory of the fork that was seen, in bytes.
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


def anonymous_bytes(pid: int | str) -> int:
    """Resident anonymous memory of a process, bytes; 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def _import_everything() -> dict[str, float]:
    seconds = {}
    for title, modules in _IMPORTS.items():
        start = time.perf_counter()
        for module in modules:
            import_module(module)
        seconds[title] = time.perf_counter() - start
    return seconds


def _run(request: dict[str, Any]) -> dict[str, Any]:
    from benchmarks import tasks

    try:
        result: dict[str, Any] = getattr(tasks, request["task"])(**request["arguments"])
    except Exception as error:  # told to the caller, who raises
        return {"error": f"{type(error).__name__}: {error}"}
    return result


def _serve() -> None:
    # Results have a channel of their own: what libraries write to standard output is no result.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    send(_import_everything())
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            send({"pid": os.getpid()})
            send(_run(json.loads(line)))
            os._exit(0)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    _serve()
