"""The picture of a reconstruction: what is drawn where, and with which limits."""

from __future__ import annotations

import numpy as np
import pytest
from figure_panels import colorbar_labels, panel, panels

from ptycho_torch.results.reconstruction_figure import plot_reconstruction
from ptycho_torch.simulation.scan import simulate_scan

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pictures")


@pytest.fixture(scope="module")
def scan():
    return simulate_scan(n_frames=60, N=16, object_size=(50, 70), n_modes=2)


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


def test_reconstruction_alone_has_mean_one_over_the_illuminated_area(scan):
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
