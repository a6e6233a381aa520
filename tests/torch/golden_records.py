"""Recorded inputs and outputs of the reference pipeline, as the parity tests read them.

A folder of records holds ``inputs/*.npz`` (scans), ``cases.json`` with ``cases/*.npz`` (calls of
grouping and of the container), ``groups.json`` with ``groups/*.npz`` (only grouping calls) and
``errors.json``. A representative part lies beside this file; the whole is looked for under
``$PTYCHO_TORCH_DATA/golden``. Knows the layout of the records and nothing of ptycho_torch.
"""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

COMMITTED = Path(__file__).parent / "golden"
WHOLE_ABSENT = "the whole set of records is absent: $PTYCHO_TORCH_DATA/golden does not exist"


def whole_root() -> Path | None:
    """The folder with all the records, or None where this machine does not have it."""
    data = os.environ.get("PTYCHO_TORCH_DATA")
    root = Path(data) / "golden" if data else None
    return root if root is not None and (root / "cases.json").is_file() else None


@dataclass(frozen=True)
class Records:
    """The records under one folder."""

    root: Path

    def _read(self, name: str) -> Any:
        return _read_json(self.root / name)

    @property
    def cases(self) -> dict[str, dict[str, Any]]:
        """Every case by name."""
        return {case["name"]: case for case in self._read("cases.json")["cases"]}

    @property
    def groups(self) -> dict[str, list[dict[str, Any]]]:
        """Every grouping call, by the name of the scan it was made on."""
        by_input: dict[str, list[dict[str, Any]]] = {}
        for record in self._read("groups.json")["records"]:
            by_input.setdefault(record["input"], []).append(record)
        return by_input

    @property
    def errors(self) -> dict[str, dict[str, Any]]:
        """Every bad or edge input by name."""
        return {record["name"]: record for record in self._read("errors.json")["records"]}

    def input_path(self, name: str) -> Path:
        """Path of one recorded scan."""
        return self.root / "inputs" / f"{name}.npz"

    def scan(self, name: str) -> dict[str, np.ndarray[Any, Any]]:
        """The arrays of one recorded scan; do not write into them."""
        return _read_arrays(self.input_path(name))

    def arrays(self, kind: str, name: str) -> dict[str, np.ndarray[Any, Any]]:
        """The recorded arrays of a case, or of all grouping calls on one scan."""
        return _read_arrays(self.root / kind / f"{name}.npz")


@functools.lru_cache(maxsize=8)
def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=16)
def _read_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(path, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def seed_of_call(call: dict[str, Any], prelude_seed: int, n_frames: int) -> int | None:
    """The seed that gives the recorded numbers.

    The reference drew from NumPy's global stream, seeded with ``prelude_seed`` right before the
    call. Without a seed of its own the call used that stream, except in the plain sequential mode,
    which always restarts from 0.
    """
    seed: int | None = call.get("seed")
    oversampled = call.get("nsamples", 1) > n_frames and call.get("gridsize", 1) > 1
    plain_sequential = call.get("sequential_sampling", False) and not oversampled
    return prelude_seed if seed is None and not plain_sequential else seed
