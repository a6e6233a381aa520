"""Scans and calls rebuilt from the records: what a case ran on, what each edge input was.

Knows the public doors (RawData, the container) and the contract's words for a case; asserts
nothing.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from golden_records import Records, seed_of_call

from ptycho_torch.data import grouping
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.data_container_bridge import PtychoDataContainerTorch, load

Arrays = dict[str, Any]


@contextmanager
def mirror_warning_ignored() -> Iterator[None]:
    """Silence the one warning that names ``patch_positions``; it has a test of its own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*patch_positions.*")
        yield


def raw_data_of_case(records: Records, case: dict[str, Any], folder: Path) -> RawData:
    """The RawData a case was made on, built the way the case says."""
    source = records.input_path(case["input"])
    if case["build_via"] == "from_file":
        # A copy: a sidecar may be written beside the file that is read.
        return RawData.from_file(shutil.copyfile(source, folder / source.name))
    fields = dict(records.scan(case["input"]))
    apply_override(fields, case["override"])
    if case["build_via"] == "from_coords_without_pc":
        names = ("xcoords", "ycoords", "diff3d", "probeGuess", "scan_index", "objectGuess")
        return RawData.from_coords_without_pc(*(fields[name] for name in names))
    if case["sample_indices_set"]:
        return chosen_from_a_longer_scan(fields, records.arrays("cases", case["name"]))
    return build(fields)


def chosen_from_a_longer_scan(fields: Arrays, recorded: Arrays) -> RawData:
    """A scan whose recorded ``sample_indices`` pick just these frames; the others are zero."""
    chosen = recorded["g.sample_indices"]
    longer = dict(fields)
    for name in ("xcoords", "ycoords", "xcoords_start", "ycoords_start", "scan_index", "diff3d"):
        longer[name] = np.zeros((3 * len(chosen), *fields[name].shape[1:]), fields[name].dtype)
        longer[name][chosen] = fields[name]
    with mock.patch.object(grouping, "subsample", lambda *_: chosen):
        return build(longer).subsample(len(chosen))


def apply_override(fields: Arrays, override: str) -> None:
    """Change the arrays of a scan the way a case's ``override`` says."""
    if override == "no_object":
        fields["objectGuess"] = None
    elif override == "coords_f32":
        for name in ("xcoords", "ycoords", "xcoords_start", "ycoords_start"):
            fields[name] = fields[name].astype(np.float32)
    elif override == "diff_f64":
        fields["diff3d"] = fields["diff3d"].astype(np.float64)
    elif override == "obj_c128":
        fields["objectGuess"] = fields["objectGuess"].astype(np.complex128) * (1 + 1e-9)
    elif override == "y_c128":
        fields["Y"] = fields["Y"].astype(np.complex128) * (1 + 1e-9)
    elif override == "obj_f64":
        fields["objectGuess"] = np.abs(fields["objectGuess"]).astype(np.float64)
    else:
        assert override == "none", override


def build(fields: Arrays) -> RawData:
    """RawData through its constructor from the arrays of a scan."""
    return RawData(
        fields["xcoords"],
        fields["ycoords"],
        fields["xcoords_start"],
        fields["ycoords_start"],
        fields["diff3d"],
        fields["probeGuess"],
        fields["scan_index"],
        objectGuess=fields.get("objectGuess"),
        Y=fields.get("Y"),
    )


def grouped_of_case(raw: RawData, case: dict[str, Any]) -> Arrays:
    """The dict that ``generate_grouped_data`` returns for a case."""
    call = dict(case["call"])
    call.setdefault("gridsize", case["cfg"]["gridsize"])
    call["seed"] = seed_of_call(call, case["prelude_seed"], len(raw.xcoords))
    with mirror_warning_ignored():
        return dict(raw.generate_grouped_data(**call))


def edge_input_calls(records: Records) -> dict[str, Callable[[], Any]]:
    """What each record of ``errors.json`` called, by name."""
    ten = _cut(records.scan("i_noobj"), 10)
    sixty, five = dict(records.scan("i_noobj")), dict(records.scan("f_tiny5"))
    five["objectGuess"] = None
    over: Arrays = {"enable_oversampling": True}

    def group(
        fields: Arrays, nsamples: int, gridsize: int = 2, **options: Any
    ) -> Callable[[], Any]:
        options = {
            "N": 32,
            "K": 4,
            "nsamples": nsamples,
            "gridsize": gridsize,
            "seed": 42,
        } | options
        return lambda: build(fields).generate_grouped_data(**options)

    def construct(**changes: Any) -> Callable[[], RawData]:
        return lambda: build(ten | changes)

    def grouped(**changes: Any) -> Arrays:
        return dict(group(sixty, 6)()) | changes

    def contained(which: Any, split: bool, data: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: load(lambda: data(), sixty["probeGuess"], which, split)

    def without_Y() -> Arrays:
        data = grouped()
        del data["Y"]
        return data

    x, frames = ten["xcoords"], ten["diff3d"]
    with_object = dict(records.scan("b_jitter"))
    nan_x = np.where(np.arange(60) == 7, np.nan, sixty["xcoords"])
    return {
        "n_points_lt_C": group(five, 3, 3, K=9),
        "n_points_lt_C_seq": group(five, 3, 3, K=9, sequential_sampling=True),
        "n_points_lt_C_over": group(five, 6, 3, K=9, **over),
        "n_points_lt_C_and_K_lt_C": group(five, 3, 3),
        "K_lt_C": group(sixty, 10, K=3),
        "K_lt_C_gs3": group(sixty, 10, 3, K=8),
        "K_lt_C_pool_ok_no_over": group(sixty, 10, K=3, neighbor_pool_size=6, **over),
        "K_lt_C_pool_ok_over": group(sixty, 70, K=3, neighbor_pool_size=6, **over),
        "over_no_optin": group(sixty, 61),
        "over_no_optin_seq": group(sixty, 61, sequential_sampling=True),
        "over_pool_lt_C": group(sixty, 70, neighbor_pool_size=3, **over),
        "over_K_lt_C_nopool": group(sixty, 70, K=3, **over),
        "over_flag_not_needed": group(sixty, 10, neighbor_pool_size=2, **over),
        "gs1_nsamples_gt_M": group(sixty, 75, 1),
        "gs1_K0": group(sixty, 3, 1, K=0),
        "gs1_K1": group(sixty, 3, 1, K=1),
        "nsamples_0": group(sixty, 0),
        "nsamples_neg": group(sixty, -1),
        "gridsize_0": group(sixty, 3, 0),
        "K_gt_M": group(sixty, 5, K=100),
        "N_mismatch_with_object": group(with_object, 2, N=16),
        "coord_len_mismatch": construct(ycoords=ten["ycoords"][:9]),
        "coord_start_len_mismatch": construct(xcoords_start=x[:9]),
        "coords_2d": construct(
            **{name: ten[name][:, None] for name in ten if name.startswith(("xcoo", "ycoo"))}
        ),
        "coords_start_none": construct(xcoords_start=None),
        "diff_nonsquare": construct(diff3d=frames[:, :, :30]),
        "diff_4d": construct(diff3d=frames[..., None]),
        "diff_len_mismatch": construct(diff3d=frames[:9]),
        "diff_len_mismatch_group": group(ten | {"diff3d": frames[:9]}, 10, 1),
        "diff_none": construct(diff3d=None),
        "diff_none_group": group(ten | {"diff3d": None}, 3),
        "probe_3d": construct(probeGuess=ten["probeGuess"][..., None]),
        "scan_index_2d": construct(scan_index=np.zeros((10, 1), np.int64)),
        "scan_index_len": construct(scan_index=np.zeros(3, np.int64)),
        "object_3d": construct(objectGuess=np.ones((1, 64, 64), np.complex64)),
        "nan_coords": group(sixty | {"xcoords": nan_x}, 10),
        "zero_diff": group(sixty | {"diff3d": np.zeros_like(sixty["diff3d"])}, 3, 1),
        "Y_len_mismatch": group(ten | {"Y": np.ones((1, 32, 32), np.complex64)}, 5, 1),
        "seed_negative": group(sixty, 10, seed=-1),
        "load_bad_which": contained("val", True, lambda: (grouped(), 0.7)),
        "load_bad_which_nosplit": contained("val", False, grouped),
        "load_channel_mismatch": contained(
            None, False, lambda: grouped(Y=np.ones((6, 32, 32, 1), np.complex64))
        ),
        "load_no_Y_key": contained(None, False, without_Y),
        "load_cb_not_tuple": contained("train", True, grouped),
        "load_missing_nphotons": lambda: PtychoDataContainerTorch(grouped(), sixty["probeGuess"]),
    }


def _cut(fields: Arrays, frames: int) -> Arrays:
    """The first ``frames`` frames of a scan."""
    total = len(fields["xcoords"])
    return {
        name: value[:frames] if value.ndim and len(value) == total else value
        for name, value in fields.items()
    }
