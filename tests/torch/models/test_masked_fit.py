"""A fit with dead pixels masked is as good as one of whole frames; a hot pixel is found."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: fits")
pytest.importorskip("lightning", reason="lightning is not installed: fits")
pytest.importorskip("matplotlib", reason="matplotlib is not installed: the report's picture")

from ptycho_torch import RawData, simulate_scan  # noqa: E402
from ptycho_torch.cli.fit_scan import reconstruct  # noqa: E402
from ptycho_torch.data.corrections import Corrections  # noqa: E402
from ptycho_torch.physics import diffract, illuminate, object_patches  # noqa: E402
from ptycho_torch.results.metrics import fourier_error  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole():
    """A scan of 400 frames."""
    return simulate_scan(n_frames=400, N=64, photons=1e5, seed=5)


@pytest.fixture(scope="module")
def clean(whole, tmp_path_factory):
    """The folder of a fit of it."""
    folder = tmp_path_factory.mktemp("clean")
    reconstruct(whole, folder, epochs=10, modes=None)
    return folder


def error_of(scan, folder):
    reconstruct(scan, folder, epochs=10, modes=None)
    return json.loads((folder / "metrics.json").read_text())["fourier_error"]


def error_on(scan, folder, good):
    """Error of a fit in a folder over the good pixels only: those with little light are noisier."""
    with np.load(folder / "reconstruction.npz") as fit:
        obj, probe = (torch.from_numpy(fit[name]) for name in ("object", "probe"))
    positions = torch.from_numpy(np.stack([scan.xcoords, scan.ycoords], axis=1))
    modelled = diffract(illuminate(probe, object_patches(obj, positions, scan.N))).numpy()
    return fourier_error(modelled * good, scan.diff3d * good)


def with_frames(scan, frames, bad_pixels=None):
    return RawData(
        scan.xcoords,
        scan.ycoords,
        scan.xcoords,
        scan.ycoords,
        frames,
        scan.probeGuess,
        bad_pixels=bad_pixels,
    )


def test_dead_pixels_and_rows_through_the_centre_cost_at_most_5_percent(whole, clean, tmp_path):
    dead = np.random.default_rng(0).random((64, 64)) < 0.05
    dead[31:34] = True
    frames = np.where(dead, 0, whole.diff3d)
    masked = error_of(with_frames(whole, frames, dead), tmp_path / "masked")
    unmasked = error_of(with_frames(whole, frames), tmp_path / "unmasked")
    best = error_on(whole, clean, ~dead)
    print(f"clean {best:.4f}, masked {masked:.4f}, unmasked {unmasked:.4f}")
    assert masked <= 1.05 * best
    assert unmasked > 1.5 * best


def test_a_hot_pixel_is_found_and_masked(whole, clean, tmp_path):
    frames = whole.diff3d.copy()
    frames[:, 20, 41] = 300
    hot = with_frames(whole, frames)
    mended = Corrections(bad_pixels="estimate").of_measurement(hot)
    assert np.argwhere(mended.bad_pixels).tolist() == [[20, 41]]
    best = error_on(whole, clean, ~mended.bad_pixels)
    assert error_of(mended, tmp_path / "mended") <= 1.05 * best
    assert error_of(hot, tmp_path / "hot") > 1.5 * best
