"""A folder with a small scan in it, for the commands."""

from __future__ import annotations

import numpy as np
import pytest
from builders import FRAMES, SIDE, simulated_arrays


@pytest.fixture(scope="session")
def fields(tmp_path_factory):
    """Arrays of the scan in ``folder``; tests change copies."""
    folder = tmp_path_factory.mktemp("scan")
    return simulated_arrays(folder, n_frames=FRAMES, N=SIDE, photons=1e4, seed=3)


@pytest.fixture
def folder(tmp_path, monkeypatch, fields):
    """The folder that the command runs in; it has ``scan.npz``."""
    monkeypatch.chdir(tmp_path)
    np.savez("scan.npz", **fields)
    return tmp_path
