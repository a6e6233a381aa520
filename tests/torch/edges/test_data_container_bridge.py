"""PtychoDataContainerTorch: lazy, sliced alike, tensors where torch is; parity has its own file."""

from __future__ import annotations

import pickle
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import run_python
from golden_builders import build, mirror_warning_ignored
from golden_records import COMMITTED, Records

from ptycho_torch.data.errors import PtychoTorchError
from ptycho_torch.data_container_bridge import PtychoDataContainerTorch, load

PART = Records(COMMITTED)
ATTRIBUTES = (
    "X Y Y_I Y_phi coords_nominal coords_true coords coords_relative global_offsets local_offsets "
    "nn_indices norm_Y_I probe"
).split()


@pytest.fixture(name="grouped", scope="module")
def fixture_grouped() -> dict[str, Any]:
    with mirror_warning_ignored():
        return build(dict(PART.scan("l_border"))).generate_grouped_data(
            32, K=6, nsamples=10, seed=1, gridsize=2
        )


@pytest.fixture(name="probe", scope="module")
def fixture_probe() -> np.ndarray[Any, Any]:
    return PART.scan("l_border")["probeGuess"]


def test_construction_and_split_materialise_nothing_large() -> None:
    groups, channels, side = 64, 4, 128
    x = np.ones((groups, channels, side, side), np.float32).transpose(0, 2, 3, 1)
    centre, relative = np.zeros((groups, 1, 2, 1)), np.zeros((groups, 1, 2, channels))
    data = {
        "X_full": x,
        "Y": x.astype(np.complex64),
        "coords_start_relative": relative,
        "coords_offsets": centre,
        "coords_relative": relative,
        "nn_indices": np.zeros((groups, channels), np.int32),
    }
    tracemalloc.start()
    container = PtychoDataContainerTorch(data, np.ones((side, side), np.complex64))
    train, test = container.split(0.5)
    text = repr(container)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < x.nbytes / 100
    assert (len(container), len(train), len(test)) == (64, 32, 32)
    assert text == "PtychoDataContainerTorch(64 groups of 4 frames, 128 x 128 px, ground truth)"


def test_x_shares_the_memory_of_the_grouped_data(grouped: Any, probe: Any) -> None:
    container = PtychoDataContainerTorch(grouped, probe)
    assert np.shares_memory(np.asarray(container.X), grouped["X_full"])
    assert np.shares_memory(np.asarray(container.split(0.5, "test").X), grouped["X_full"])


def test_read_only_arrays_are_copied_and_never_written_through(grouped: Any, probe: Any) -> None:
    x = grouped["X_full"].copy()
    x.flags.writeable = False
    container = PtychoDataContainerTorch(grouped | {"X_full": x}, probe)
    np.testing.assert_array_equal(container.X, x)


def test_attributes_are_torch_tensors(grouped: Any, probe: Any) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: container of tensors")
    container = PtychoDataContainerTorch(grouped, probe)
    for name in ATTRIBUTES:
        assert isinstance(getattr(container, name), torch.Tensor), name
    assert container.norm_Y_I.shape == ()
    assert container.YY_full is None


@pytest.mark.slow
def test_attributes_are_the_same_numbers_as_numpy_arrays_where_torch_is_absent(
    grouped: Any, probe: Any, tmp_path: Path
) -> None:
    grouped_file, result_file = tmp_path / "grouped.pickle", tmp_path / "result.npz"
    grouped_file.write_bytes(pickle.dumps((grouped, probe)))
    code = f"""
import pickle, sys, numpy as np
from ptycho_torch.data_container_bridge import PtychoDataContainerTorch
import ptycho_torch.raw_data_bridge, ptycho_torch.memmap_bridge, ptycho_torch.config_bridge
container = PtychoDataContainerTorch(*pickle.load(open(sys.argv[1], "rb")))
arrays = {{name: getattr(container, name) for name in {ATTRIBUTES!r}}}
assert all(isinstance(array, (np.ndarray, np.generic)) for array in arrays.values())
np.savez(sys.argv[2], **arrays)
"""
    result = run_python(code, grouped_file, result_file, without_torch=True)
    assert result.returncode == 0, result.stderr
    container = PtychoDataContainerTorch(grouped, probe)
    with np.load(result_file) as blocked:
        for name in ATTRIBUTES:
            expected = np.asarray(getattr(container, name))
            assert blocked[name].dtype == expected.dtype
            np.testing.assert_array_equal(blocked[name], expected, err_msg=name)


def test_split_cuts_every_attribute_at_the_same_group(grouped: Any, probe: Any) -> None:
    container = PtychoDataContainerTorch(grouped, probe)
    train, test = container.split(0.39)
    assert (len(train), len(test)) == (3, 7)
    for name in set(ATTRIBUTES) - {"norm_Y_I", "probe"}:
        whole = np.asarray(getattr(container, name))
        np.testing.assert_array_equal(getattr(train, name), whole[:3], err_msg=name)
        np.testing.assert_array_equal(getattr(test, name), whole[3:], err_msg=name)


@pytest.mark.parametrize(
    ("fraction", "which", "message"),
    [
        (0.05, "train", r"the train half is empty: train_frac=0.05 of 10 groups"),
        (1.0, "test", r"the test half is empty"),
        (0.5, "val", r"which is 'val'; expected 'train' or 'test'"),
        (1.5, "train", r"train_frac is 1.5"),
        (float("nan"), None, r"train_frac is nan"),
        ("half", None, r"train_frac is 'half'; expected a number"),
    ],
)
def test_split_refuses_what_gives_no_half(
    grouped: Any, probe: Any, fraction: Any, which: Any, message: str
) -> None:
    with pytest.raises(PtychoTorchError, match=message):
        PtychoDataContainerTorch(grouped, probe).split(fraction, which)


def test_load_keeps_the_half_that_is_named(grouped: Any, probe: Any) -> None:
    test = load(lambda: (grouped, 0.7), probe, "test", True, nphotons=1e6)
    np.testing.assert_array_equal(test.nn_indices, grouped["nn_indices"][7:])
    x = np.asarray(test.X, np.float64)
    np.testing.assert_allclose(test.norm_Y_I, np.sqrt(1e6 / (x**2).sum((1, 2)).mean()), rtol=1e-6)


def test_to_npz_writes_every_attribute_once(grouped: Any, probe: Any, tmp_path: Path) -> None:
    container = PtychoDataContainerTorch(grouped, probe)
    path = container.to_npz(tmp_path / "container.npz")
    assert path == tmp_path / "container.npz"
    with np.load(path, allow_pickle=False) as written:
        assert set(written.files) == set(ATTRIBUTES) - {"coords"}
        for name in written.files:
            np.testing.assert_array_equal(written[name], np.asarray(getattr(container, name)))


def test_from_raw_data_without_pc_equals_grouping_then_container(probe: Any) -> None:
    scan = PART.scan("i_noobj")
    arguments = [scan[n] for n in ("xcoords", "ycoords", "diff3d", "probeGuess", "scan_index")]
    container = PtychoDataContainerTorch.from_raw_data_without_pc(
        *arguments, N=32, K=4, nsamples=9, gridsize=2, seed=5, nphotons=1e5
    )
    grouped = build(dict(scan)).generate_grouped_data(32, K=4, nsamples=9, gridsize=2, seed=5)
    expected = PtychoDataContainerTorch(grouped, scan["probeGuess"], nphotons=1e5)
    assert len(container) == 9
    for name in set(ATTRIBUTES) - {"coords_nominal", "coords_true", "coords"}:
        np.testing.assert_array_equal(getattr(container, name), getattr(expected, name), name)
    # Without corrected positions the start positions are the positions.
    np.testing.assert_array_equal(
        container.coords, np.asarray(container.local_offsets).astype(np.float32)
    )


@pytest.mark.parametrize("shape", [(32, 32), (32, 32, 1), (3, 32, 32)])
def test_probe_with_modes_or_a_last_axis_of_one_is_held(grouped: Any, shape: Any) -> None:
    probe = np.ones(shape, np.complex128)
    held = np.asarray(PtychoDataContainerTorch(grouped, probe).probe)
    assert held.dtype == np.complex64
    assert held.shape == (shape if shape != (32, 32, 1) else (32, 32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Y": "real"}, r"Y dtype is float32; expected complex"),
        ({"Y": "one channel"}, r"Y has 1 channels and X has 4"),
        ({"Y": "short"}, r"Y shape is \(9, 32, 32, 4\)"),
        ({"nn_indices": "short"}, r"nn_indices axis 0 is 9; expected B = 10"),
        ({"coords_relative": "short"}, r"coords_relative axis 0 is 9; expected B = 10"),
        ({"X_full": "missing"}, r"grouped_data\['X_full'\] is missing"),
    ],
)
def test_grouped_data_that_disagrees_with_itself_is_refused(
    grouped: Any, probe: Any, changes: dict[str, str], message: str
) -> None:
    ((name, fault),) = changes.items()
    data = dict(grouped)
    if fault == "missing":
        del data[name]
    else:
        data[name] = {
            "real": lambda a: np.abs(a),
            "one channel": lambda a: a[..., :1],
            "short": lambda a: a[:-1],
        }[fault](data[name])
    with pytest.raises(ValueError, match=message):
        PtychoDataContainerTorch(data, probe)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grouped_data": None}, "grouped_data is NoneType"),
        ({"probe": np.ones((32, 32))}, "probe is float64"),
        ({"probe": np.ones((32, 31), np.complex64)}, r"probe is complex64 \(32, 31\)"),
        *(
            (
                {"probe": np.ones(shape, np.complex64)},
                rf"^probe is complex64 {re.escape(str(shape))}; expected complex, \(32, 32\) or "
                r"\(P, 32, 32\), as the frames\.$",
            )
            for shape in [
                *[(64, 64), (31, 31), (64, 64, 1), (3, 64, 64), (32, 32, 3), (1, 32, 1)],
                *[(0, 32, 32), (32,), (1, 1, 32, 32), ()],
            ]
        ),
        ({"nphotons": 0}, "nphotons is 0.0"),
        ({"nphotons": "many"}, "nphotons is 'many'"),
    ],
)
def test_bad_argument_is_refused_by_name(
    grouped: Any, probe: Any, arguments: dict[str, Any], message: str
) -> None:
    given = {"grouped_data": grouped, "probe": probe} | arguments
    with pytest.raises(PtychoTorchError, match=message):
        PtychoDataContainerTorch(**given)


def test_norm_Y_I_of_frames_without_signal_is_refused(grouped: Any, probe: Any) -> None:
    dark = grouped | {"X_full": np.zeros_like(grouped["X_full"])}
    with pytest.raises(ValueError, match="zero in every frame"):
        _ = PtychoDataContainerTorch(dark, probe).norm_Y_I
