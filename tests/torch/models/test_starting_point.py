"""Fits that start from an object or a probe that is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ptycho_torch import ObjectFit, simulate_scan  # noqa: E402
from ptycho_torch.data.errors import OptionError, ScanFileError, ScanKeyError  # noqa: E402

SCAN = simulate_scan(n_frames=16, N=16, seed=3)
TRUTH, PROBE = SCAN.objectGuess, SCAN.probeGuess[None]


def started(**starts: object) -> tuple[torch.Tensor, torch.Tensor]:
    model = ObjectFit(**starts)
    model.initialize(TRUTH.shape, torch.from_numpy(PROBE.copy()))
    return model.reconstruction()


def test_a_fit_starts_from_the_object_that_is_given_and_flat_where_that_is_zero():
    given = TRUTH.copy()
    given[:4] = 0
    obj, _ = started(initial_object=given)
    np.testing.assert_array_equal(obj[4:], given[4:])
    assert (obj[:4] == 1).all()


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_object_and_probe_come_from_files_of_fit_and_predict(tmp_path: Path, suffix: str):
    paths = {}
    for name, array in (("object", TRUTH), ("probe", 2 * PROBE)):
        paths[f"initial_{name}"] = str(tmp_path / f"{name}{suffix}")
        if suffix == ".npy":
            np.save(paths[f"initial_{name}"], array)
        else:
            np.savez(paths[f"initial_{name}"], **{name: array, "other": np.zeros(2)})
    obj, probe = started(**paths)
    np.testing.assert_array_equal(obj, TRUTH)
    np.testing.assert_allclose(probe, 2 * PROBE, rtol=1e-6)


def test_a_probe_of_one_mode_needs_no_axis_of_modes():
    _, probe = started(initial_probe=3 * PROBE[0])
    np.testing.assert_allclose(probe, 3 * PROBE, rtol=1e-6)


def test_starts_that_do_not_fit_are_one_line(tmp_path: Path):
    with pytest.raises(OptionError, match=r"initial_object is \(4, 4\); expected \(\d+, \d+\)"):
        started(initial_object=TRUTH[:4, :4])
    with pytest.raises(OptionError, match="initial_probe"):
        started(initial_probe=PROBE[..., :8, :8])
    with pytest.raises(OptionError, match="zero throughout, or not finite"):
        ObjectFit(initial_object=np.zeros((4, 4)))
    with pytest.raises(OptionError, match="beside probe='initial'"):
        ObjectFit(initial_probe=PROBE, probe="initial")
    np.savez(tmp_path / "other.npz", picture=TRUTH)
    with pytest.raises(ScanKeyError, match=r"object is missing; expected one of .* picture"):
        ObjectFit(initial_object=str(tmp_path / "other.npz"))
    (tmp_path / "junk.npz").write_bytes(b"PK\3\4junk")
    with pytest.raises(ScanFileError, match=r"junk\.npz"):
        ObjectFit(initial_object=str(tmp_path / "junk.npz"))


def test_objects_in_a_pickle_are_not_unpickled(tmp_path: Path):
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ScanFileError, match=r"pickled\.npy"):
        ObjectFit(initial_object=str(tmp_path / "pickled.npy"))
