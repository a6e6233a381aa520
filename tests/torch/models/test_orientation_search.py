"""Orientations of positions: short fits find the right one from every wrong one."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: fits")

from ptycho_torch import read_scan, simulate_scan  # noqa: E402
from ptycho_torch.data.corrections import Corrections  # noqa: E402
from ptycho_torch.models.orientation_search import rank_orientations  # noqa: E402

STAR = Path(os.environ.get("PTYCHO_TORCH_DATA", "absent")) / "data/aps_velociprobe_siemens.npz"
EIGHT = list(product((False, True), repeat=3))
# What mends a wrong orientation: of a swap after one flip, the other axis is flipped back.
BACK = {(True, True, False): (True, False, True), (True, False, True): (True, True, False)}


def words(orientation):
    named = zip(("--swap-xy", "--flip-x", "--flip-y"), orientation, strict=True)
    return " ".join(name for name, used in named if used) or "as it is"


def assert_found(scan, orientation):
    swap, flip_x, flip_y = orientation
    wrong = Corrections(swap_xy=swap, flip_x=flip_x, flip_y=flip_y).of_measurement(scan)
    ranked = rank_orientations(wrong)
    assert ranked[0].name == words(BACK.get(orientation, orientation))
    assert ranked[0].error < 0.9 * ranked[1].error


@pytest.mark.slow
@pytest.mark.parametrize("orientation", EIGHT, ids=words)
def test_the_right_orientation_of_the_demo_is_found_from(orientation):
    assert_found(simulate_scan(n_frames=1156, N=64, seed=0), orientation)


@pytest.mark.slow
@pytest.mark.skipif(not STAR.is_file(), reason="PTYCHO_TORCH_DATA names no folder with the star")
@pytest.mark.parametrize("orientation", EIGHT[1::3], ids=words)
def test_the_right_orientation_of_the_star_is_found_from(orientation):
    assert_found(read_scan(STAR), orientation)


@pytest.mark.slow
def test_transposed_frames_are_found_as_swapped_axes():
    scan = simulate_scan(n_frames=1156, N=64, seed=0)
    turned = Corrections(transpose_frames=True).of_measurement(scan)
    assert rank_orientations(turned)[0].name == "--swap-xy"
