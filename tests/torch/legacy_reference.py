"""The 2025-07 reference's cache rules, written down again without looking at our writer.

Its loader's verdicts on 42 files were recorded; the rule and the files here are held to them.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

GOLDEN = Path(__file__).parent / "golden" / "legacy"
RECORDS = json.loads((GOLDEN / "legacy.json").read_text())
VERDICTS = {record["name"]: record for record in RECORDS["loader_deviations"]}


def positions(name: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(GOLDEN / "positions.npz") as file:
        return file[f"{name}.xcoords"], file[f"{name}.ycoords"]


def checksum(x: np.ndarray, y: np.ndarray) -> str:
    numbers = np.concatenate([x, y, [len(x), len(y)]])
    assert numbers.dtype == np.float64
    return hashlib.md5(numbers.tobytes()).hexdigest()


def all_groups_slowly(
    x: np.ndarray, y: np.ndarray, C: int, K: int, random: np.random.RandomState
) -> np.ndarray:
    """Every group, drawn point by point from ``random``."""
    tree = cKDTree(np.column_stack([x, y]))
    groups = []
    for point in zip(x, y, strict=True):
        near = tree.query(point, k=K + 1)[1]
        for _ in range(min(50, (K + 1) // C + 1)):
            groups.append(sorted(near[random.permutation(K + 1)[:C]]))
    return np.array(sorted({tuple(int(i) for i in group) for group in groups}), dtype=np.int64)


def loader_verdict(path: Path, expected_checksum: str, gridsize: int, K: int) -> tuple[str, str]:
    """What the loader says of a file, and what it does to it."""
    if not path.exists():
        return "rejected", "absent"
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            expected = {
                "dataset_checksum": expected_checksum,
                "gridsize": gridsize,
                "overlap_factor": K,
            }
            for key in expected:
                if key not in file:
                    return "rejected", "kept"
            for key, value in expected.items():
                if file[key] != value:
                    return "rejected", "kept"
            if file["all_groups"].dtype != np.int64:
                raise TypeError("all_groups")
    except Exception:
        return "rejected", "deleted"
    return "ACCEPTED", "kept"


def _savez(compressed: bool = True) -> Callable[..., bytes]:
    def save(**arrays: Any) -> bytes:
        buffer = io.BytesIO()
        (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
        return buffer.getvalue()

    return save


def variant_file(name: str, good: dict[str, np.ndarray]) -> bytes | None:
    """The file that a recorded name stands for; None where there is none."""
    groups = good["all_groups"]
    save = _savez()
    whole = save(**good)
    npy = io.BytesIO()
    np.save(npy, groups)
    shifted = groups.copy()
    shifted[::2] += 1_000_000
    negative = groups.copy()
    negative[::2] -= 1_000_000
    obj: Any = object
    changes: dict[str, dict[str, Any]] = {
        "good": {},
        "extra keys": {"note": np.array("mine"), "weights": np.linspace(0, 1, 7)},
        "extra OBJECT key (pickled), untouched": {"thing": np.array({"a": 1}, dtype=obj)},
        "all_groups int32": {"all_groups": groups.astype(np.int32)},
        "all_groups uint64": {"all_groups": groups.astype(np.uint64)},
        "all_groups float64": {"all_groups": groups.astype(np.float64)},
        "all_groups >i8": {"all_groups": groups.astype(">i8")},
        "all_groups int16": {"all_groups": groups.astype(np.int16)},
        "all_groups object": {"all_groups": groups.astype(obj)},
        "all_groups fortran order": {"all_groups": np.asfortranarray(groups)},
        "all_groups longlong ('q')": {"all_groups": groups.astype("q")},
        "all_groups 1-D": {"all_groups": groups.ravel()},
        "all_groups (G,9) wrong width": {"all_groups": np.arange(90).reshape(10, 9)},
        "all_groups (0,4)": {"all_groups": groups[:0]},
        "all_groups out of range": {"all_groups": shifted},
        "all_groups negative": {"all_groups": negative},
        "all_groups unsorted + dup rows": {
            "all_groups": np.concatenate([groups[::-1, ::-1], groups[:3]])
        },
        "wrong checksum": {"dataset_checksum": np.array("0" * 32)},
        "checksum upper case": {"dataset_checksum": np.char.upper(good["dataset_checksum"])},
        "checksum shape (1,)": {"dataset_checksum": good["dataset_checksum"].reshape(1)},
        "checksum shape (2,)": {"dataset_checksum": np.repeat(good["dataset_checksum"], 2)},
        "checksum bytes S32": {"dataset_checksum": good["dataset_checksum"].astype("S32")},
        "checksum object dtype": {"dataset_checksum": good["dataset_checksum"].astype(obj)},
        "checksum <U64 (wider)": {"dataset_checksum": good["dataset_checksum"].astype("<U64")},
        "wrong gridsize": {"gridsize": np.array(3)},
        "wrong overlap_factor": {"overlap_factor": np.array(5)},
        "gridsize int32": {"gridsize": np.array(2, dtype=np.int32)},
        "gridsize float 2.0": {"gridsize": np.array(2.0)},
        "gridsize (1,)": {"gridsize": np.array([2])},
        "gridsize (2,)": {"gridsize": np.array([2, 2])},
        "gridsize str '2'": {"gridsize": np.array("2")},
        "overlap_factor bool/None object": {"overlap_factor": np.array(None)},
    }
    if name in changes:
        return save(**{**good, **changes[name]})
    if name.startswith("missing "):
        return save(**{k: v for k, v in good.items() if k != name.removeprefix("missing ")})
    contents = {
        "uncompressed savez": _savez(compressed=False)(**good),
        "not a zip (garbage)": b"this is no archive\n" * 40,
        "empty file": b"",
        "plain .npy content": npy.getvalue(),
        "truncated zip": whole[: len(whole) // 2],
        "absent": None,
    }
    return contents[name]
