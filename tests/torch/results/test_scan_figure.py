"""The picture of a scan: what is drawn where, and with which limits."""

from __future__ import annotations

import numpy as np
import pytest
from figure_panels import colorbar_labels, panel, panels

from ptycho_torch.data.frames import Frames
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.results.metrics import illumination
from ptycho_torch.results.plotting import save_figure
from ptycho_torch.results.scan_figure import plot_scan
from ptycho_torch.simulation.scan import simulate_scan

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pictures")


@pytest.fixture(scope="module")
def scan():
    return simulate_scan(n_frames=60, N=16, object_size=(50, 70), n_modes=2)


def test_scan_picture_has_positions_with_rows_downwards(scan):
    axes = panel(plot_scan(scan), "positions")
    np.testing.assert_allclose(
        axes.collections[0].get_offsets(), np.stack([scan.xcoords, scan.ycoords], 1)
    )
    assert axes.get_xlim() == (0, 70)
    assert axes.get_ylim() == (50, 0)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x (px)", "y (px)")


def test_scan_picture_has_the_dose(scan):
    positions = np.stack([scan.xcoords, scan.ycoords], 1)
    drawn = panel(plot_scan(scan), "dose").images[0].get_array()
    np.testing.assert_allclose(drawn, illumination(scan.probeGuess, positions, (50, 70)))


@pytest.mark.slow
def test_scan_picture_has_the_footprints_of_groups_all_over_the_scan(scan):
    groups = np.stack([np.arange(59), np.arange(1, 60)], axis=1)
    axes = panel(plot_scan(scan, groups), "groups of 2")
    assert axes.get_title().startswith("8 of 59 groups of 2 frames")
    assert len(axes.patches) == 8 * 2
    centres = [patch.center for patch in axes.patches]
    assert (scan.xcoords[0], scan.ycoords[0]) in centres
    assert (scan.xcoords[59], scan.ycoords[59]) in centres


@pytest.mark.parametrize("groups", [None, np.empty((0, 4), dtype=int)])
def test_scan_picture_without_groups_says_so(scan, groups):
    assert "no groups" in panels(plot_scan(scan, groups))


def test_sample_frames_are_drawn_as_counts_with_common_log_limits(scan):
    figure = plot_scan(scan)
    frames = [axes for axes in figure.axes if axes.get_title().startswith("sample frame")]
    assert len(frames) == 4
    assert len({axes.images[0].get_clim() for axes in frames}) == 1
    counts = np.asarray(scan.diff3d, dtype=np.float64)[0] ** 2
    assert f"{counts.sum():,.0f} counts" in frames[0].get_title()
    np.testing.assert_allclose(frames[0].images[0].get_array(), np.maximum(counts, 1), rtol=1e-6)
    assert colorbar_labels(figure).count("counts / px") == 2


def test_frames_stored_as_counts_are_not_squared(scan):
    counts = np.rint(np.asarray(scan.diff3d) ** 2).astype(np.uint16)
    stored = RawData(
        scan.xcoords, scan.ycoords, scan.xcoords, scan.ycoords,
        Frames.from_array(counts, measurement="counts"), scan.probeGuess, scan.scan_index,
    )  # fmt: skip
    title = next(a.get_title() for a in plot_scan(stored).axes if "sample" in a.get_title())
    assert f"{counts[0].sum():,} counts" in title


@pytest.mark.slow
@pytest.mark.parametrize("n_frames", [1, 3])
def test_scan_of_few_frames_is_drawn(n_frames, tmp_path):
    scan = simulate_scan(n_frames=n_frames, N=8, photons=None)
    assert save_figure(plot_scan(scan), tmp_path / "scan.png").stat().st_size > 10_000


def test_scan_without_an_object_is_drawn_over_what_its_patches_cover(scan):
    bare = RawData(
        scan.xcoords, scan.ycoords, scan.xcoords, scan.ycoords, scan.diff3d, scan.probeGuess,
        scan.scan_index,
    )  # fmt: skip
    right, top = panel(plot_scan(bare), "positions").get_xlim()[1], scan.xcoords.max() + 8
    assert top <= right <= top + 2


def test_dark_frames_are_drawn():
    scan = simulate_scan(n_frames=4, N=8, photons=1e-3)
    assert len(panels(plot_scan(scan))) >= 5


@pytest.mark.slow
def test_file_name_is_no_formula(tmp_path):
    path = simulate_scan(n_frames=4, N=8).to_file(tmp_path / r"a$\frac$.npz")
    assert save_figure(plot_scan(RawData.from_file(path)), tmp_path / "scan.png").exists()
