"""Parity with the reference pipeline: what it recorded, our RawData and container give again.

A representative part of the records always runs; the whole runs where ``$PTYCHO_TORCH_DATA`` has
it. Coordinates, indices and X agree to the bit, Y within 2e-7, norm_Y_I within 1e-5 relative.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_builders import (
    build,
    edge_input_calls,
    grouped_of_case,
    mirror_warning_ignored,
    raw_data_of_case,
)
from golden_records import COMMITTED, WHOLE_ABSENT, Records, seed_of_call, whole_root

from ptycho_torch.data.errors import PtychoTorchError
from ptycho_torch.data_container_bridge import PtychoDataContainerTorch

PART = Records(COMMITTED)
WHOLE = Records(whole) if (whole := whole_root()) else None
Y_TOLERANCE = 2e-7
COORDS = [f"coords_{kind}" for kind in ("nn", "offsets", "relative")] + [
    f"coords_start_{kind}" for kind in ("nn", "offsets", "relative")
]
Arrays = dict[str, Any]


def over_records(part: list[str], whole: list[str]) -> Any:
    """Parametrize over the committed records, then over the whole set where there is one."""
    params = [pytest.param(PART, name, id=name) for name in part]
    if WHOLE is None:
        skip = pytest.mark.skip(reason=WHOLE_ABSENT)
        params.append(pytest.param(None, "", id="whole", marks=skip))
    else:
        slow = pytest.mark.slow
        params += [pytest.param(WHOLE, name, id=f"whole-{name}", marks=slow) for name in whole]
    return pytest.mark.parametrize(("records", "name"), params)


each_case = over_records(list(PART.cases), list(WHOLE.cases) if WHOLE else [])
each_grouped_scan = over_records(list(PART.groups), list(WHOLE.groups) if WHOLE else [])


def sha256(array: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def assert_bits(name: str, got: Any, expected: np.ndarray[Any, Any]) -> None:
    """Same dtype, shape and bits."""
    got = np.asarray(got)
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape), name
    np.testing.assert_array_equal(got, expected, err_msg=name)
    assert got.tobytes() == expected.tobytes(), f"{name}: equal values, other bits (signed zero)"


def assert_described(name: str, got: Any, described: Any) -> None:
    """Same dtype and shape as the record describes; None where it says None."""
    if described is None:
        assert got is None, name
        return
    array = np.asarray(got)
    assert str(array.dtype) == described["dtype"], f"{name} dtype"
    assert list(array.shape) == described["shape"], f"{name} shape"


def assert_sums(name: str, got: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> None:
    """Sums over the pixels of each patch, which cover the rows that no record stores."""
    pixels = got.shape[1] * got.shape[2]
    dtype = np.complex128 if np.iscomplexobj(got) else np.float64
    np.testing.assert_allclose(
        got.astype(dtype).sum(axis=(1, 2)),
        expected,
        atol=Y_TOLERANCE * pixels,
        rtol=1e-12,
        err_msg=f"{name} sums",
    )


def assert_patches(name: str, got: Any, recorded: Arrays) -> None:
    """Ground truth: stored rows within tolerance, sums of the rest."""
    got = np.asarray(got)
    if name in recorded:
        rows = recorded[f"{name}.rows"]
        np.testing.assert_allclose(
            got[rows], recorded[name], atol=Y_TOLERANCE, rtol=0, err_msg=name
        )
    if f"{name}.sum_per_patch" in recorded:
        assert_sums(name, got, recorded[f"{name}.sum_per_patch"])


def assert_angles(name: str, got: Any, recorded: Arrays, modulus: np.ndarray[Any, Any]) -> None:
    """Phases: where the modulus is small an angle is only as good as Y_TOLERANCE / modulus.

    Pixels outside the object are exactly zero and have phase zero on both sides.
    """
    got = np.asarray(got)
    if name in recorded:
        rows = recorded[f"{name}.rows"]
        turn = np.exp(1j * (got[rows].astype(np.float64) - recorded[name]))
        error = np.abs(turn - 1) * modulus[rows]
        assert error.max() <= 2 * Y_TOLERANCE, f"{name}: {error.max()}"


@each_case
def test_raw_data_gives_the_recorded_groups_of_a_case(
    records: Records, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    case, recorded = records.cases[name], records.arrays("cases", name)
    raw = raw_data_of_case(records, case, tmp_path)
    state = np.random.get_state()
    grouped = grouped_of_case(raw, case)
    assert_same_state(state)

    assert sorted(grouped) == sorted(case["outputs"])
    for key, described in case["outputs"].items():
        assert_described(key, grouped[key], described)
    for key in ["nn_indices", *COORDS]:
        assert_bits(key, grouped[key], recorded[f"g.{key}"])
    nn = recorded["g.nn_indices"]
    assert_bits("diffraction", grouped["diffraction"], np.moveaxis(raw.diff3d[nn], 1, -1))
    assert_x(name, grouped["X_full"], case["sha256"]["g.X_full"], recorded)
    assert_scale(name, grouped, recorded["scale"])
    if case["outputs"]["Y"] is not None:
        assert_patches("g.Y", grouped["Y"], recorded)
    if "g.sample_indices" in recorded:
        assert_bits("sample_indices", grouped["sample_indices"], recorded["g.sample_indices"])
    if raw.objectGuess is not None:
        assert_bits("objectGuess", grouped["objectGuess"], raw.objectGuess)


def assert_x(name: str, x: Any, checksum: str, recorded: Arrays | None = None) -> None:
    x = np.asarray(x)
    assert x.dtype == np.float32, name
    if recorded is not None and "g.X_full" in recorded:
        assert_bits(f"{name} X_full", x[recorded["g.X_full.rows"]], recorded["g.X_full"])
    if recorded is not None:
        np.testing.assert_allclose(
            x.sum(axis=(1, 2), dtype=np.float64), recorded["g.X_full.sum_per_patch"], rtol=1e-12
        )
    assert sha256(x) == checksum, f"{name}: bits of the whole X_full"


def assert_scale(name: str, grouped: Arrays, scale: np.ndarray[Any, Any]) -> None:
    """X_full is the recorded scale times the frames, in float32."""
    frames = np.asarray(grouped["diffraction"]).astype(np.float32)
    assert_bits(f"{name} scale", grouped["X_full"], np.float32(scale) * frames)


def assert_same_state(state: Any) -> None:
    """NumPy's global stream stands where it stood."""
    now = np.random.get_state()
    assert (now[0], now[2:]) == (state[0], state[2:])
    np.testing.assert_array_equal(now[1], state[1])


@each_case
def test_data_container_gives_the_recorded_attributes_of_a_case(
    records: Records, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    case, recorded = records.cases[name], records.arrays("cases", name)
    raw = raw_data_of_case(records, case, tmp_path)
    grouped = grouped_of_case(raw, case)
    container = PtychoDataContainerTorch(grouped, raw.probeGuess, nphotons=case["cfg"]["nphotons"])

    assert len(container) == case["containers"]["c"]["len"]
    assert_container("c", container, case, recorded)
    assert_bits("probe", container.probe, np.asarray(records.scan(case["input"])["probeGuess"]))
    for key, source in (("global_offsets", "coords_offsets"), ("local_offsets", "coords_relative")):
        assert_bits(key, getattr(container, key), recorded[f"g.{source}"])
    assert_bits("nn_indices", container.nn_indices, recorded["g.nn_indices"])
    if case["outputs"]["Y"] is None:
        assert (np.asarray(container.Y) == 1).all() and (np.asarray(container.Y_I) == 1).all()
        assert (np.asarray(container.Y_phi) == 0).all()
    else:
        assert_patches("c.Y", container.Y, recorded)
        assert_patches("c.Y_I", container.Y_I, recorded)
        assert_angles("c.Y_phi", container.Y_phi, recorded, np.asarray(container.Y_I))
        np.testing.assert_allclose(container.Y, grouped["Y"], atol=Y_TOLERANCE, rtol=0)


def assert_container(prefix: str, container: Any, case: Arrays, recorded: Arrays) -> None:
    """Everything whose bits are promised, and every dtype and shape."""
    sliced_here = {"global_offsets", "local_offsets", "nn_indices"}
    for key, described in case["containers"][prefix]["attrs"].items():
        if prefix != "c" and key in sliced_here:
            described = described | {"shape": [len(container), *described["shape"][1:]]}
        assert_described(f"{prefix}.{key}", getattr(container, key), described)
    for key in ("coords_nominal", "coords_true", "coords"):
        assert_bits(
            f"{prefix}.{key}", getattr(container, key), recorded[f"{prefix}.coords_nominal"]
        )
    assert sha256(np.asarray(container.X)) == case["sha256"][f"{prefix}.X"], f"{prefix}.X bits"
    np.testing.assert_allclose(container.norm_Y_I, recorded[f"{prefix}.norm_Y_I"], rtol=1e-5)


@each_case
def test_data_container_split_gives_the_recorded_halves_of_a_case(
    records: Records, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    case, recorded = records.cases[name], records.arrays("cases", name)
    raw = raw_data_of_case(records, case, tmp_path)
    container = PtychoDataContainerTorch(
        grouped_of_case(raw, case), raw.probeGuess, nphotons=case["cfg"]["nphotons"]
    )
    for fraction in case["splits"]:
        middle = int(len(container) * fraction)
        for which, rows in (("train", slice(middle)), ("test", slice(middle, None))):
            prefix = f"split{fraction}.{which}"
            if prefix not in case["containers"]:  # the reference failed: that half is empty
                with pytest.raises(ValueError, match="is empty"):
                    container.split(fraction, which)
                continue
            half = container.split(fraction, which)
            assert len(half) == case["containers"][prefix]["len"]
            assert_container(prefix, half, case, recorded)
            for key in ("nn_indices", "global_offsets", "local_offsets", "Y", "Y_I", "Y_phi"):
                whole = np.asarray(getattr(container, key))
                assert_bits(f"{prefix}.{key}", getattr(half, key), whole[rows])


@each_grouped_scan
def test_raw_data_gives_the_recorded_groups_of_every_call_on_a_scan(
    records: Records, name: str
) -> None:
    arrays = records.arrays("groups", name)
    raw = build(dict(records.scan(name)) | {"objectGuess": None, "Y": None})
    state = np.random.get_state()
    failures = []
    for record in records.groups[name]:
        call = dict(record["call"])
        call["seed"] = seed_of_call(call, record["prelude_seed"], len(raw.xcoords))
        try:
            grouped = raw.generate_grouped_data(**call)
            nn = arrays[f"{record['key']}.nn"].astype(record["dtype"])
            assert_bits("nn_indices", grouped["nn_indices"], nn)
            assert_scale(name, grouped, arrays[f"{record['key']}.scale"])
            assert_x(name, grouped["X_full"], record["X_full_sha256"])
        except (AssertionError, PtychoTorchError) as error:
            first = next(line for line in str(error).splitlines() if line.strip())
            failures.append(f"{name} {record['key']} {record['call']}: {first}")
    assert_same_state(state)
    assert not failures, f"{len(failures)} of {len(records.groups[name])}:\n" + "\n".join(failures)


EDGE_INPUTS = edge_input_calls(PART)
# Refused by the reference on purpose: our message carries these numbers too.
NUMBERS_NAMED = {
    "n_points_lt_C": (5, 9), "n_points_lt_C_seq": (5, 9), "n_points_lt_C_over": (5, 9),
    "n_points_lt_C_and_K_lt_C": (5, 9), "K_lt_C": (3, 4), "K_lt_C_gs3": (8, 9),
    "K_lt_C_pool_ok_no_over": (3, 4), "over_no_optin": (61, 60, 2, 4),
    "over_no_optin_seq": (61, 60, 2, 4), "over_pool_lt_C": (3, 4), "over_K_lt_C_nopool": (3, 4),
    "gs1_K0": (0, 1), "coord_len_mismatch": (9, 10), "coord_start_len_mismatch": (9, 10),
    "load_bad_which": (), "load_channel_mismatch": (4, 1),
}  # fmt: skip
# The reference fails from inside, or hides something: ours refuses at the door.
REFUSED_HERE = """
nsamples_0 nsamples_neg gridsize_0 N_mismatch_with_object coords_2d coords_start_none
diff_nonsquare diff_4d diff_len_mismatch diff_len_mismatch_group diff_none diff_none_group
scan_index_2d scan_index_len object_3d nan_coords zero_diff Y_len_mismatch seed_negative
load_cb_not_tuple
""".split()
# A sane result, or the one exception that is accepted: a probe with a last axis of length one.
ACCEPTED = """
K_lt_C_pool_ok_over over_flag_not_needed gs1_nsamples_gt_M gs1_K1 K_gt_M probe_3d
load_bad_which_nosplit load_missing_nphotons load_no_Y_key
""".split()


def test_every_recorded_edge_input_of_raw_data_and_data_container_is_tested() -> None:
    assert sorted([*NUMBERS_NAMED, *REFUSED_HERE, *ACCEPTED]) == sorted(PART.errors)
    assert sorted(EDGE_INPUTS) == sorted(PART.errors)
    assert {PART.errors[name]["raised"] for name in NUMBERS_NAMED} == {"ValueError"}


@pytest.mark.parametrize("name", NUMBERS_NAMED)
def test_raw_data_or_data_container_refuses_with_the_numbers_of_the_reference(name: str) -> None:
    with pytest.raises(ValueError) as caught:
        EDGE_INPUTS[name]()
    assert isinstance(caught.value, PtychoTorchError)
    message = str(caught.value)
    assert "\n" not in message
    named = {int(number) for number in re.findall(r"(?<![\w.])\d+(?![\w.]*\d)", message)}
    assert set(NUMBERS_NAMED[name]) <= named, message


@pytest.mark.parametrize("name", REFUSED_HERE)
def test_raw_data_or_data_container_refuses_at_the_door_where_the_reference_stumbles(
    name: str,
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((ValueError, TypeError)) as caught:
            EDGE_INPUTS[name]()
    assert isinstance(caught.value, PtychoTorchError), repr(caught.value)


@pytest.mark.parametrize("name", ACCEPTED)
def test_raw_data_or_data_container_accepts_a_sane_edge_input_like_the_reference(name: str) -> None:
    result = EDGE_INPUTS[name]()
    described = PART.errors[name].get("result")
    if isinstance(described, dict):
        for key, entry in described.items():
            assert_described(f"{name} {key}", result[key], entry)
        assert np.isfinite(result["X_full"]).all()
    elif name == "probe_3d":
        np.testing.assert_array_equal(
            np.squeeze(result.probeGuess), PART.scan("i_noobj")["probeGuess"]
        )
    else:
        assert len(result) == 6
        expected = np.sqrt(1e9 / (np.asarray(result.X, np.float64) ** 2).sum((1, 2)).mean())
        np.testing.assert_allclose(result.norm_Y_I, expected, rtol=1e-6)


def test_raw_data_oversampling_puts_the_seed_in_front_where_neighbours_are_too_few() -> None:
    # No record covers a scan of just C frames. By hand, on a line: the first hit is dropped, three
    # neighbours are left, so each pool row is the seed and the others by distance.
    x = np.array([0.0, 1.0, 3.0, 7.0])
    scan = dict(PART.scan("f_tiny5")) | {"objectGuess": None}
    names = ("xcoords", "ycoords", "xcoords_start", "ycoords_start", "diff3d", "scan_index")
    scan |= {name: scan[name][:4] for name in names} | {"xcoords": x, "ycoords": np.zeros(4)}
    grouped = build(scan).generate_grouped_data(
        32, K=4, nsamples=8, seed=5, gridsize=2, enable_oversampling=True
    )
    pool = np.array([[0, 1, 2, 3], [1, 0, 2, 3], [2, 1, 0, 3], [3, 2, 1, 0]])
    drawn = np.random.RandomState(5).randint(0, 4, size=8)
    assert_bits("nn_indices", grouped["nn_indices"], pool[drawn])


@pytest.mark.parametrize("shape", [(24, 32, 32), (24, 32, 32, 1)])
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_raw_data_passes_ready_made_patches_through(shape: Any, dtype: Any) -> None:
    scan = dict(PART.scan("j_y3d"))
    raw = build(scan | {"Y": scan["Y"].astype(dtype).reshape(shape)})
    grouped = raw.generate_grouped_data(32, K=4, nsamples=6, seed=42, gridsize=2)
    expected = np.moveaxis(scan["Y"][grouped["nn_indices"]], 1, -1).astype(dtype)
    assert_bits("Y", grouped["Y"], expected)


def test_raw_data_refuses_real_valued_patches() -> None:
    scan = dict(PART.scan("j_y3d"))
    with pytest.raises(ValueError, match=r"Y dtype is float32; expected .*complex"):
        build(scan | {"Y": np.abs(scan["Y"])})


def test_raw_data_says_once_that_reference_patches_are_mirrored() -> None:
    raw = build(dict(PART.scan("b_jitter")))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        raw.generate_grouped_data(32, nsamples=3, gridsize=1, seed=0)
        assert not caught
        raw.generate_grouped_data(32, nsamples=3, gridsize=2, seed=0, patch_positions="scan")
        assert not caught
        raw.generate_grouped_data(32, nsamples=3, gridsize=2, seed=0)
        raw.generate_grouped_data(32, nsamples=3, gridsize=2, seed=1)
    assert len(caught) == 1
    assert "patch_positions='scan'" in str(caught[0].message)


def test_raw_data_patches_at_scan_positions_are_those_of_single_frames() -> None:
    # At C = 1 the reference cuts at the position itself, so it is its own oracle.
    raw = build(dict(PART.scan("b_jitter")))
    grouped = raw.generate_grouped_data(
        32, K=6, nsamples=5, seed=3, gridsize=2, patch_positions="scan"
    )
    single = raw.generate_grouped_data(32, nsamples=len(raw), gridsize=1)
    order = np.argsort(single["nn_indices"][:, 0])
    expected = single["Y"][order, :, :, 0][grouped["nn_indices"]]
    np.testing.assert_allclose(grouped["Y"], np.moveaxis(expected, 1, -1), atol=5e-6)
    with mirror_warning_ignored():
        mirrored = raw.generate_grouped_data(32, K=6, nsamples=5, seed=3, gridsize=2)
    assert np.abs(mirrored["Y"] - grouped["Y"]).max() > 0.1


def test_raw_data_without_a_seed_draws_anew_and_leaves_the_global_stream_alone() -> None:
    raw = build(dict(PART.scan("i_noobj")))
    state = np.random.get_state()
    drawn = [
        raw.generate_grouped_data(32, K=6, nsamples=20, gridsize=2)["nn_indices"] for _ in range(2)
    ]
    assert_same_state(state)
    assert (drawn[0] != drawn[1]).any()
