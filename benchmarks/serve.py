"""The measuring process: ``python -m benchmarks.serve``.

It imports everything, then forks for each request that it reads: each measurement starts in a fresh
process, and what importing costs is measured apart from it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from types import MappingProxyType
from typing import Any

_IMPORTS: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        "torch": ("torch",),
        "tensordict and Lightning": ("tensordict", "lightning.pytorch"),
        "SciPy and filelock": ("scipy.spatial", "filelock"),
        "ptycho_torch": ("ptycho_torch.datamodule", "benchmarks.tasks"),
    }
)


def main() -> None:
    # Results have a channel of their own: libraries may write to standard output.
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
    except Exception as error:  # the caller reads it and raises
        return {"error": f"{type(error).__name__}: {error}"}
    return result


if __name__ == "__main__":
    main()
