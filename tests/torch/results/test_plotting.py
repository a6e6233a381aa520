"""Pictures: what is drawn where, with which limits, and what is said where matplotlib is absent."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from builders import run_python

from ptycho_torch.data.errors import MissingDependencyError
from ptycho_torch.data.frames import Frames
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.data.simulate import simulate_scan
from ptycho_torch.results.metrics import illumination
from ptycho_torch.results.plotting import (
    plot_reconstruction,
    plot_scan,
    save_figure,
    save_scan_figure,
)

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pictures")


@pytest.fixture(scope="module")
def scan():
    return simulate_scan(n_frames=60, N=16, object_size=(50, 70), n_modes=2)


def panels(figure):
    """Axes by the first line of their title."""
    return {axes.get_title().split("\n")[0]: axes for axes in figure.axes if axes.get_title()}


def panel(figure, word):
    return next(axes for title, axes in panels(figure).items() if word in title)


def colorbar_labels(figure):
    bars = [bar for axes in figure.axes for bar in axes.child_axes]
    return [bar.get_ylabel() for bar in bars]


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


@pytest.mark.parametrize("n_frames", [1, 3])
def test_scan_of_few_frames_is_drawn(n_frames, tmp_path):
    scan = simulate_scan(n_frames=n_frames, N=8, photons=None)
    assert save_scan_figure(scan, tmp_path / "scan.png").stat().st_size > 10_000


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


def reconstruction_of(scan):
    positions = np.stack([scan.xcoords, scan.ycoords], 1)
    return plot_reconstruction(
        0.5 * np.exp(2j) * scan.objectGuess,
        scan.probeGuess,
        truth=scan.objectGuess,
        positions_px=positions,
        history={"training": [0.3, 0.2, 0.1], "validation": []},
        title="a title",
    )


def test_reconstruction_is_drawn_beside_the_truth_with_its_global_factor_removed(scan):
    figure = reconstruction_of(scan)
    for part, values in (("amplitude", np.abs), ("phase", np.angle)):
        ours = panel(figure, f"reconstruction: {part}").images[0]
        truth = panel(figure, f"truth: {part}").images[0]
        np.testing.assert_allclose(ours.get_array(), values(scan.objectGuess), atol=1e-5)
        assert ours.get_clim() == truth.get_clim()
    assert figure.get_suptitle() == "a title"
    assert {"amplitude (relative)", "phase (rad)"} <= set(colorbar_labels(figure))


def test_error_curve_counts_epochs_from_one_and_leaves_out_empty_ones(scan):
    axes = panel(reconstruction_of(scan), "Fourier error")
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xydata(), [[1, 0.3], [2, 0.2], [3, 0.1]])
    assert line.get_label() == "training"
    assert axes.get_xlabel() == "epoch"


def test_reconstruction_without_a_truth_has_mean_one_over_the_illuminated_area(scan):
    figure = plot_reconstruction(7j * np.ones((40, 40)), scan.probeGuess)
    assert not [title for title in panels(figure) if "truth" in title]
    np.testing.assert_allclose(panel(figure, "amplitude").images[0].get_array(), 1, atol=1e-6)
    np.testing.assert_allclose(panel(figure, "phase").images[0].get_array(), 0, atol=1e-6)


@pytest.mark.parametrize("span, cmap", [(1.0, "gray"), (6.0, "twilight")])
def test_phase_that_goes_round_gets_a_whole_cyclic_map(scan, span, cmap):
    phase = np.linspace(-span / 2, span / 2, 1600).reshape(40, 40)
    figure = plot_reconstruction(np.exp(1j * phase), scan.probeGuess)
    image = panel(figure, "reconstruction: phase").images[0]
    assert image.get_cmap().name == cmap
    if cmap == "twilight":
        assert image.get_clim() == (-np.pi, np.pi)


def test_limits_come_from_the_illuminated_area(scan):
    obj = scan.objectGuess.copy()
    obj[:3] = 100
    positions = np.stack([scan.xcoords, scan.ycoords], 1)
    figure = plot_reconstruction(obj, scan.probeGuess, positions_px=positions)
    image, fade = panel(figure, "reconstruction: amplitude").images
    assert image.get_clim()[1] < 3
    assert fade.get_array()[0, 0, 3] > 0.5
    assert fade.get_array()[25, 35, 3] == 0


def test_picture_is_written_whole_into_a_new_folder(scan, tmp_path):
    path = save_figure(plot_scan(scan), tmp_path / "new" / "scan.png")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["scan.png"]


@pytest.mark.slow
def test_drawing_leaves_matplotlib_state_alone():
    code = (
        "import sys; from ptycho_torch.data.simulate import simulate_scan;"
        "from ptycho_torch.results.plotting import plot_scan;"
        "assert 'matplotlib' not in sys.modules;"
        "plot_scan(simulate_scan(n_frames=4, N=8));"
        "assert 'matplotlib.pyplot' not in sys.modules; assert 'torch' not in sys.modules"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def test_missing_matplotlib_is_named(scan, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match="matplotlib is not installed"):
        plot_scan(scan)
