"""Bad pixels and photons reach batches on every route, and a fit leaves bad pixels out."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: batches are its")

from ptycho_torch.batches.dataset import PtychoDataset  # noqa: E402
from ptycho_torch.data.config import GroupingConfig  # noqa: E402
from ptycho_torch.data.frames import Frames  # noqa: E402
from ptycho_torch.data.raw_data import RawData  # noqa: E402
from ptycho_torch.datamodule import PtychoDataModule  # noqa: E402
from ptycho_torch.models.object_fit import ObjectFit  # noqa: E402
from ptycho_torch.simulation.scan import simulate_scan  # noqa: E402

N, M = 32, 64
GROUPING = GroupingConfig(gridsize=2, n_groups=24)


def scan_with(bad, photons=None, value=np.nan, seed=2):
    scan = simulate_scan(n_frames=M, N=N, seed=seed)
    frames = np.array(scan.diff3d)
    if bad is not None:
        frames[np.broadcast_to(bad, frames.shape)] = value
    return RawData(
        scan.xcoords,
        scan.ycoords,
        scan.xcoords,
        scan.ycoords,
        Frames.from_array(frames),
        scan.probeGuess,
        objectGuess=scan.objectGuess,
        bad_pixels=bad,
        frame_photons=photons,
    )


def masks():
    one = np.zeros((N, N), bool)
    one[4, 9] = one[N // 2] = True
    per_frame = np.zeros((M, N, N), bool)
    per_frame[10, 3] = per_frame[11, :, 5] = True
    return {"one": one, "per frame": per_frame, "none": None}


@pytest.mark.parametrize("kinds", [["one"], ["per frame"], ["one", "none"], ["per frame", "one"]])
def test_batches_carry_what_is_bad_in_any_frame_of_a_group(kinds):
    every = masks()
    scans = [scan_with(every[kind], seed=number) for number, kind in enumerate(kinds)]
    clean = [scan_with(every[kind], value=0, seed=number) for number, kind in enumerate(kinds)]
    dataset = PtychoDataset(scans, grouping=GROUPING, ground_truth="none")
    wanted = PtychoDataset(clean, grouping=GROUPING, ground_truth="none")
    batch, zeroed = dataset[:], wanted[:]
    assert batch.bad_pixels.shape == (len(dataset), N, N)
    for group, bad in enumerate(batch.bad_pixels.numpy()):
        mask = every[kinds[int(batch.scan_id[group])]]
        if mask is None:
            mask = np.zeros((N, N), bool)
        frames = batch.nn_indices[group].numpy()
        assert np.array_equal(bad, mask if mask.ndim == 2 else mask[frames].any(axis=0))
    expected = zeroed.X.movedim(-1, 1).masked_fill(batch.bad_pixels[:, None], 0)
    assert torch.equal(batch.channels_first(), expected)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("assemble_on", ["device", "worker"])
@pytest.mark.parametrize("kind", ["one", "per frame"])
def test_every_route_gives_the_same_mask_and_photons(kind, assemble_on, workers):
    light = (np.abs(scan_with(None).probeGuess) ** 2).sum()
    photons = np.linspace(0.5, 1.5, M) * light
    scan = scan_with(masks()[kind], photons)
    data = PtychoDataModule(
        scan,
        grouping=GROUPING,
        split="none",
        batch_size=8,
        num_workers=workers,
        assemble_on=assemble_on,
        patch_positions="scan",
    )
    data.setup("fit")
    seen = 0
    for batch in data.train_dataloader():
        batch = data.on_after_batch_transfer(
            data.transfer_batch_to_device(batch, torch.device("cpu"), 0), 0
        )
        assert torch.equal(
            batch.frame_photons, torch.from_numpy(photons.astype(np.float32))[batch.nn_indices]
        )
        assert not batch.channels_first()[batch.bad_pixels[:, None].expand(-1, 4, -1, -1)].any()
        assert batch.bad_pixels.any()
        seen += len(batch)
    assert seen == 24


def test_one_mask_is_broadcast_and_travels_once():
    batch = PtychoDataset(scan_with(masks()["one"]), grouping=GROUPING, ground_truth="none")[:8]
    assert batch.bad_pixels.stride(0) == 0
    moved = batch.to(torch.device("cpu"))
    assert torch.equal(moved.bad_pixels, batch.bad_pixels)
    assert batch.to(torch.bfloat16).bad_pixels.dtype == torch.bool


def test_a_fit_leaves_bad_pixels_out_and_follows_photons():
    scan = simulate_scan(n_frames=M, N=N, photons=None, seed=2)
    bad, light = masks()["one"], (np.abs(scan.probeGuess) ** 2).sum()
    photons = np.linspace(0.5, 1.5, M) * light
    light = np.sqrt(photons / photons.mean())[:, None, None]
    frames = np.array(scan.diff3d, np.float32) * light.astype(np.float32)
    frames[:, bad] = 1e4
    raw = RawData(
        scan.xcoords,
        scan.ycoords,
        scan.xcoords,
        scan.ycoords,
        frames,
        scan.probeGuess,
        objectGuess=scan.objectGuess,
        bad_pixels=bad,
        frame_photons=photons,
    )
    batch = PtychoDataset(raw, grouping=GROUPING, patch_positions="scan")[:]
    model = ObjectFit(refine_probe=False)
    model.initialize(
        scan.objectGuess.shape, torch.from_numpy(np.array(scan.probeGuess).reshape(-1, N, N))
    )
    model.mean_photons.fill_(photons.mean())
    with torch.no_grad():
        model.obj.copy_(torch.view_as_real(torch.from_numpy(scan.objectGuess.astype(np.complex64))))
        modelled = model(batch)
    wanted = batch.channels_first()
    error = float(((modelled - wanted) ** 2).sum() / (wanted**2).sum()) ** 0.5
    assert error < 1e-3
    assert not modelled[batch.bad_pixels[:, None].expand_as(modelled)].any()
