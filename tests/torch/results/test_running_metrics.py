"""Metrics over batches and ranks are the functions of all images together."""

from __future__ import annotations

import numpy as np
import pytest
from builders import complex_noise, run_python

torch = pytest.importorskip("torch", reason="torch is not installed: metrics over batches")
pytest.importorskip("torchmetrics", reason="torchmetrics is not installed: metrics over batches")

from ptycho_torch.data.errors import OptionError  # noqa: E402
from ptycho_torch.results import metrics  # noqa: E402
from ptycho_torch.results.ring_correlation import fourier_ring_correlation  # noqa: E402
from ptycho_torch.results.running_metrics import (  # noqa: E402
    AmplitudePearson,
    CentredCorrelation,
    FourierRingCorrelation,
    FrameNRMSE,
    PhasePearson,
)

PAIRS = {
    CentredCorrelation: metrics.centred_correlation,
    AmplitudePearson: metrics.amplitude_pearson,
    PhasePearson: metrics.phase_pearson,
}


def images(count=6, side=12, seed=0):
    """Reconstructions and truths (count, side, side) complex128, and a mask."""
    truth = np.exp(0.3j * complex_noise((count, side, side), seed))
    found = (0.4 - 0.6j) * (truth + 0.1 * complex_noise(truth.shape, seed + 1))
    return found, truth, complex_noise(truth.shape, seed + 2).real > -0.5


@pytest.mark.parametrize("metric, function", PAIRS.items(), ids=lambda each: each.__name__)
@pytest.mark.parametrize("masked", [True, False])
def test_metric_of_uneven_batches_is_the_function_of_all_images(metric, function, masked):
    found, truth, mask = images()
    running, mask = metric(), mask if masked else None
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        part = [
            None if each is None else torch.from_numpy(each[rows]) for each in (found, truth, mask)
        ]
        running.update(*part)
    assert running.compute().dtype == torch.float64
    assert float(running.compute()) == pytest.approx(function(found, truth, mask), rel=1e-9)
    assert 0.3 < function(found, truth, mask) < 0.99


@pytest.mark.parametrize("metric", PAIRS, ids=lambda each: each.__name__)
def test_metric_of_single_precision_on_a_flat_object_is_0(metric):
    truth = torch.from_numpy(images()[1]).to(torch.complex64)
    running = metric()
    assert float(running(torch.full_like(truth, 0.1 - 0.7j), truth)) == 0
    assert float(running.compute()) == 0
    running.reset()
    assert float(running(truth, truth)) == pytest.approx(1)


def test_what_lies_outside_the_mask_may_be_anything():
    found, truth, mask = (torch.from_numpy(each) for each in images())
    broken = torch.where(mask, found, torch.nan)
    for metric, function in PAIRS.items():
        expected = function(found.numpy(), truth.numpy(), mask.numpy())
        assert float(metric()(broken, truth, mask)) == pytest.approx(expected, rel=1e-9)


def test_rings_of_one_image_are_those_of_the_function():
    found, truth, _ = images(1, 40)
    mask = np.zeros((40, 40), dtype=bool)
    mask[4:30, 2:38] = True
    running = FourierRingCorrelation((26, 36), pixel_m=3e-9)
    running.update(*(torch.from_numpy(each) for each in (found, truth)), torch.from_numpy(mask))
    expected = fourier_ring_correlation(found[0], truth[0], mask, pixel_m=3e-9)
    result = running.compute()
    for name, value in expected._asdict().items():
        np.testing.assert_allclose(result[name].numpy(), value, err_msg=name)


def test_rings_of_batches_add_up():
    found, truth, _ = (torch.from_numpy(each) for each in images(5, 16))
    at_once, one_by_one = FourierRingCorrelation((16, 16)), FourierRingCorrelation((16, 16))
    at_once.update(found, truth)
    for rows in (slice(0, 2), slice(2, 5)):
        one_by_one.update(found[rows], truth[rows])
    result = one_by_one.compute()
    assert set(result) == {"frequency", "correlation", "threshold", "half_period_px"}
    for name, value in at_once.compute().items():
        torch.testing.assert_close(result[name], value)
    # More images, more pixels a ring, a lower threshold.
    single = fourier_ring_correlation(found[0].numpy(), truth[0].numpy())
    assert (result["threshold"].numpy() < single.threshold).all()


def test_frame_nrmse_of_batches_leaves_bad_pixels_out():
    modelled, measured = np.random.default_rng(0).random((2, 7, 2, 8, 8)).astype(np.float32)
    good = np.random.default_rng(1).random((8, 8)) > 0.2
    running = FrameNRMSE()
    for rows in (slice(0, 5), slice(5, 7)):
        part = (torch.from_numpy(each[rows]) for each in (modelled, measured))
        running.update(*part, torch.from_numpy(good))
    expected = metrics.frame_nrmse(modelled, measured, good)
    assert float(running.compute()) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "metric", [*PAIRS, FrameNRMSE, lambda: FourierRingCorrelation((8, 8))], ids=str
)
def test_metric_refuses_other_shapes(metric):
    with pytest.raises(OptionError, match=r"\(2, 8, 8\); expected \(1, 8, 8\)"):
        metric().update(torch.ones(2, 8, 8), torch.ones(1, 8, 8))


def test_rings_refuse_a_box_of_another_shape():
    image = torch.ones(8, 9, dtype=torch.complex64)
    with pytest.raises(OptionError, match=r"\(8, 9\); expected \(8, 8\)"):
        FourierRingCorrelation((8, 8)).update(image, image)


RANK = """
import sys
import torch
from torch import distributed, multiprocessing
from ptycho_torch.results import running_metrics as rooms

def work(rank, store, content, out):
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    found, truth, mask, modelled, measured = content
    # Parts of different sizes: one image for the first rank.
    mine = slice(0, 1) if rank == 0 else slice(1, None)
    names = ("CentredCorrelation", "AmplitudePearson", "PhasePearson")
    several = {name: getattr(rooms, name)() for name in names}
    for metric in several.values():
        metric.update(found[mine], truth[mine], mask[mine])
    several["FrameNRMSE"] = rooms.FrameNRMSE()
    several["FrameNRMSE"].update(modelled[mine], measured[mine])
    several["rings"] = rooms.FourierRingCorrelation((12, 12))
    several["rings"].update(found[mine], truth[mine])
    several["one rank only"] = rooms.PhasePearson()
    if rank == 1:
        several["one rank only"].update(found, truth, mask)
    results = {name: metric.compute() for name, metric in several.items()}
    torch.save(results, f"{out}.{rank}")
    distributed.destroy_process_group()

if __name__ == "__main__":
    store, content, out = sys.argv[1:]
    context = multiprocessing.get_context("fork")
    loaded = torch.load(content)
    ranks = [context.Process(target=work, args=(rank, store, loaded, out)) for rank in (0, 1)]
    for rank in ranks: rank.start()
    for rank in ranks: rank.join()
    sys.exit(max(rank.exitcode for rank in ranks))
"""


@pytest.mark.slow
def test_two_ranks_have_the_figures_of_one_process(tmp_path):
    found, truth, mask = images()
    modelled, measured = np.random.default_rng(0).random((2, 6, 2, 8, 8))
    content = [torch.from_numpy(each) for each in (found, truth, mask, modelled, measured)]
    torch.save(content, tmp_path / "content.pt")
    places = (tmp_path / name for name in ("store", "content.pt", "out"))
    result = run_python(RANK, *places)
    assert result.returncode == 0, result.stderr
    rings = FourierRingCorrelation((12, 12))
    rings.update(content[0], content[1])
    for rank in (0, 1):
        results = torch.load(tmp_path / f"out.{rank}")
        for metric, function in PAIRS.items():
            expected = function(found, truth, mask)
            assert float(results[metric.__name__]) == pytest.approx(expected, rel=1e-9)
        assert float(results["one rank only"]) == pytest.approx(
            metrics.phase_pearson(found, truth, mask), rel=1e-9
        )
        expected = metrics.frame_nrmse(modelled, measured)
        assert float(results["FrameNRMSE"]) == pytest.approx(expected, rel=1e-9)
        torch.testing.assert_close(results["rings"], rings.compute())
