"""The crop of the measured star that the documentation reconstructs, against the whole scan."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ptycho_torch import read_scan

CROP = Path(__file__).parents[3] / "docs" / "tutorials" / "siemens_star.npz.bz2"
WHOLE = Path(os.environ.get("PTYCHO_TORCH_DATA", "")) / "data" / "aps_velociprobe_siemens.npz"


def _counts(amplitudes):
    return np.rint(np.asarray(amplitudes, dtype=float) ** 2)


def test_crop_is_small_and_has_its_licence_beside_it():
    assert CROP.stat().st_size < 1e6
    assert "UChicago Argonne" in CROP.with_name("siemens_star.LICENSE").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not WHOLE.is_file(), reason="PTYCHO_TORCH_DATA has no whole star")
def test_crop_holds_frames_and_steps_of_the_whole_scan():
    crop, whole = read_scan(CROP), read_scan(WHOLE)
    whole_counts = _counts(whole.diff3d)[:, 32:96, 32:96]
    sums = whole_counts.sum(axis=(1, 2))
    partner = []
    for frame in _counts(crop.diff3d):
        alike = np.flatnonzero(sums == frame.sum())
        partner += [int(n) for n in alike if np.array_equal(whole_counts[n], frame)]
    assert len(set(partner)) == len(partner) == len(crop) == 164
    for name in ("xcoords", "ycoords"):
        shift = getattr(crop, name) - getattr(whole, name)[partner] / 2
        assert np.ptp(shift) < 1e-4
