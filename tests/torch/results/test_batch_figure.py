"""The picture of a batch: each panel shows the numbers of the batch, in their units."""

from __future__ import annotations

import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: batches")
pytest.importorskip("matplotlib", reason="matplotlib is not installed: pictures")

from figure_panels import panel, panels  # noqa: E402

from ptycho_torch import (  # noqa: E402
    PtychoBatch,
    PtychoDataModule,
    PtychoDataset,
    RawData,
    plot,
    simulate_scan,
)
from ptycho_torch.data.errors import (  # noqa: E402
    MissingDependencyError,
    OptionError,
    OptionTypeError,
)


@pytest.fixture(name="scan", scope="module")
def fixture_scan() -> RawData:
    return simulate_scan(n_frames=100, N=16, object_size=80, seed=3)


@pytest.fixture(name="batch")
def fixture_batch(scan: RawData) -> PtychoBatch:
    return PtychoDataset(scan, patch_positions="scan", cache="off")[10:16]


def test_the_group_is_highlighted_at_its_positions(scan: RawData, batch: PtychoBatch) -> None:
    figure = plot(batch, group=2)
    everyone, group = panel(figure, "positions").collections
    members = batch.nn_indices[2].numpy()
    at = np.stack([scan.xcoords[members], scan.ycoords[members]], axis=1)
    np.testing.assert_allclose(group.get_offsets(), at, atol=1e-9)
    assert len(everyone.get_offsets()) == 24
    assert panel(figure, "positions").yaxis_inverted()
    assert "group 2 of a batch of 6" in figure.get_suptitle()


def test_frames_are_counts_on_a_log_scale(scan: RawData, batch: PtychoBatch) -> None:
    figure = plot(batch, group=2)
    shown = [axes for axes in figure.axes if axes.get_title().startswith("frame of the group")]
    assert len(shown) == 4
    for axes, number in zip(shown, batch.nn_indices[2], strict=True):
        counts = scan.diff3d[int(number)].astype(float) ** 2
        image = axes.images[0]
        low = image.norm.vmin
        np.testing.assert_allclose(image.get_array(), np.maximum(counts, low), rtol=1e-5)
        assert type(image.norm).__name__ == "LogNorm"


def test_patches_are_those_of_the_object(batch: PtychoBatch) -> None:
    figure = plot(batch, group=1)
    amplitude = panel(figure, "patch: amplitude").images[0].get_array()
    phase = panel(figure, "patch: phase").images[0].get_array()
    titles = [axes.get_title() for axes in figure.axes]
    assert titles.count("patch: phase") == 2
    assert any(np.allclose(amplitude, batch.Y[1, ..., c].abs()) for c in range(2))
    assert any(np.allclose(phase, batch.Y[1, ..., c].angle()) for c in range(2))


def test_a_batch_without_truth_a_group_and_half_precision_are_drawn(batch: PtychoBatch) -> None:
    batch.Y = None
    assert not [title for title in panels(plot(batch)) if "patch" in title]
    assert "frame of the group" in panels(plot(batch.bfloat16()))
    assert "group 0 of a batch of 1" in plot(batch[3]).get_suptitle()


def test_bad_pixels_keep_their_colour(scan: RawData) -> None:
    bad = np.zeros((16, 16), bool)
    bad[4, 5] = True
    masked = RawData.sharing(scan, frames=scan.frames.with_bad_pixels(bad))
    figure = plot(PtychoDataset(masked, patch_positions="scan", cache="off")[:2])
    mask = panel(figure, "frame of the group").images[0].get_array().mask
    np.testing.assert_array_equal(mask, bad)


def test_a_scan_and_the_data_modules_method_are_drawn_by_the_same_room(
    scan: RawData, batch: PtychoBatch
) -> None:
    assert "100 frames of 16 x 16 px" in plot(scan).get_suptitle()
    data = PtychoDataModule(scan, patch_positions="scan", cache="off", batch_size=4)
    assert "group 3 of a batch of 6" in data.plot(batch, group=3).get_suptitle()


def test_what_cannot_be_drawn_is_refused(
    batch: PtychoBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OptionTypeError, match="what to plot is str; expected a RawData or a Pty"):
        plot("scan.npz")
    with pytest.raises(OptionError, match="group is 6; expected at most 5"):
        plot(batch, group=6)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r"ptycho-torch\[plot\]"):
        plot(batch)
