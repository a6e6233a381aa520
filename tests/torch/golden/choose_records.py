"""Cut the representative part of the records out of a whole folder of them.

``python choose_records.py WHOLE`` writes the scans, the chosen cases and every seventh grouping
call beside this file. Every mode, dtype, gridsize, way of building and split of the whole appears;
rows of large arrays that a checksum already covers are left out.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
CASES = """
a_gs1_K4_nMp7_s42_capped a_gs2_K7_n24_s0 a_gs3_K9_n8_s123
b_gs1_defaults_n1 b_gs2_K4_n8_noseed_prelude7 b_gs2_K4_n8_s42_coordsf32 b_gs2_K4_n8_s42_difff64
b_gs2_K4_n8_s42_gridsize_from_cfg b_gs2_K4_n8_s42_nphotons1e6 b_gs2_K4_n8_s42_objc128
b_gs2_K4_n8_s42_objf64 b_gs2_K4_n8_s42_seq_seed_ignored b_gs2_K4_n8_s42_split_5_1_9
b_gs2_N16arg_n3_s42
e_gs2_K4_n70_over_s42 e_gs2_K6_n20_seq f_gs2_K4_n20_over_s0_pool4 f_gs2_K4_n20_over_seq_noseed
f_gs2_K4_n8_over_s42_full g_gs2_K7_n16_s0 g_gs3_K9_n5_s123
h_gs2_K4_n6_s42_from_file h_gs2_K4_n6_s42_without_pc h_gs3_K9_n6_s123
i_gs2_K4_n6_s42_sample_indices i_gs2_K4_n90_over_s42_pool7 i_gs3_K9_n70_over_s42
j3_gs1_K4_nM_s42 j3_gs2_K4_n40_over_s42_pool6 j3_gs2_K4_n6_s42_from_file j3_gs2_K4_n6_s42_yc128
l_gs1_K4_n16_s42 l_gs2_K4_n8_s42_full
""".split()
ROWS_KEPT = {"g.Y": 1, "c.Y": 1, "c.Y_I": 1, "c.Y_phi": 1}
WITH_CONTAINER_ROWS = "b_gs2_K4_n8_s42_objf64 j3_gs2_K4_n6_s42_yc128 l_gs2_K4_n8_s42_full".split()
EVERY = 7


def trim_arrays(name: str, arrays: dict[str, Any]) -> dict[str, Any]:
    """Keep what no checksum covers: a row of each Y, every small array."""
    kept = {
        key: value
        for key, value in arrays.items()
        if key not in ("g.X_full", "g.X_full.rows", "c.probe", "rng_after")
    }
    for key, rows in ROWS_KEPT.items():
        if key in kept:
            kept[key] = kept[key][-rows:]
            kept[f"{key}.rows"] = kept[f"{key}.rows"][-rows:]
    if name not in WITH_CONTAINER_ROWS:
        for key in ("c.Y", "c.Y_I", "c.Y_phi"):
            kept.pop(key, None)
            kept.pop(f"{key}.rows", None)
    return kept


def trim_case(case: dict[str, Any]) -> dict[str, Any]:
    """Drop what the tests do not read from the index entry of a case."""
    containers = {
        name: {key: value for key, value in entry.items() if key in ("attrs", "len")}
        for name, entry in case["containers"].items()
    }
    dropped = ("seconds", "store", "full_shape")
    return {key: value for key, value in case.items() if key not in dropped} | {
        "containers": containers
    }


def main(whole: Path) -> None:
    """Write the representative part beside this file."""
    for folder in ("inputs", "cases", "groups"):
        (HERE / folder).mkdir(exist_ok=True)
    for path in sorted((whole / "inputs").iterdir()):
        shutil.copyfile(path, HERE / "inputs" / path.name)
    shutil.copyfile(whole / "errors.json", HERE / "errors.json")

    index = json.loads((whole / "cases.json").read_text(encoding="utf-8"))
    index["cases"] = [trim_case(case) for case in index["cases"] if case["name"] in CASES]
    write_json(HERE / "cases.json", index)
    for name in CASES:
        with np.load(whole / "cases" / f"{name}.npz", allow_pickle=False) as archive:
            arrays = trim_arrays(name, {key: archive[key] for key in archive.files})
        np.savez_compressed(HERE / "cases" / f"{name}.npz", **arrays)

    index = json.loads((whole / "groups.json").read_text(encoding="utf-8"))
    index["records"] = index["records"][::EVERY]
    write_json(HERE / "groups.json", index)
    for name in {record["input"] for record in index["records"]}:
        with np.load(whole / "groups" / f"{name}.npz", allow_pickle=False) as archive:
            arrays = {
                f"{record['key']}.{part}": archive[f"{record['key']}.{part}"]
                for record in index["records"]
                if record["input"] == name
                for part in ("nn", "scale")
            }
        np.savez_compressed(HERE / "groups" / f"{name}.npz", **arrays)


def write_json(path: Path, content: object) -> None:
    """Write compact JSON with a final newline."""
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
