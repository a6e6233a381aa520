"""What a few rounds of phase retrieval make of a group, and what a network does with it."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: estimates are tensors")

from ptycho_torch import GroupingConfig, PtychoDataModule, PtychoPINN  # noqa: E402
from ptycho_torch.data.errors import OptionError  # noqa: E402
from ptycho_torch.models.projections import projections  # noqa: E402
from ptycho_torch.physics import diffract, illuminate, object_patches  # noqa: E402
from ptycho_torch.results.metrics import centred_correlation  # noqa: E402
from ptycho_torch.simulation.scan import simulate_scan  # noqa: E402

N = 32


def group(n_modes=1, frames=4):
    """Noise-free frames of one group two pixels apart, (1, C, N, N), and their true patches."""
    scan = simulate_scan(n_frames=16, N=N, photons=None, n_modes=n_modes, seed=4, object_size=70)
    offsets = torch.tensor([[[-2.0, -2.5], [2.0, -2.0], [-2.0, 2.0], [2.0, 2.25]]])[:, :frames]
    true = object_patches(torch.tensor(scan.objectGuess), offsets[0].double() + 35, N)[None]
    probe = torch.tensor(scan.probeGuess.reshape(1, n_modes, N, N)).to(torch.complex64)
    return diffract(illuminate(probe, true)), probe, offsets, true


def likeness(found, true, probe):
    light = probe.abs().square().sum(1)[0]
    bright = (light > 0.1 * light.max()).numpy()
    scores = [centred_correlation(*pair, bright) for pair in zip(found[0], true[0], strict=True)]
    return float(np.mean(scores))


@pytest.mark.parametrize("n_modes", [1, 2])
def test_a_flat_object_stays_flat(n_modes):
    _, probe, offsets, _ = group(n_modes)
    flat = torch.ones(1, 4, N, N, dtype=torch.complex64)
    found = projections(diffract(illuminate(probe, flat)), probe, offsets, 5)
    torch.testing.assert_close(found, flat, rtol=0, atol=1e-4)


@pytest.mark.parametrize("n_modes", [1, 2])
def test_one_round_is_what_numpy_makes_of_it(n_modes):
    amplitude, probe, offsets, _ = group(n_modes, frames=1)
    # In double precision: where the probe's far field is dark, its phase is rounding.
    amplitude, probe = amplitude.double(), probe.to(torch.complex128)
    P = probe[0].numpy()
    far = np.fft.fft2(P, norm="ortho")
    measured = np.fft.ifftshift(amplitude[0, 0].numpy())
    corrected = far * measured / np.sqrt((np.abs(far) ** 2).sum(0))
    light = (np.abs(P) ** 2).sum(0)
    change = (P.conj() * (np.fft.ifft2(corrected, norm="ortho") - P)).sum(0)
    expected = 1 + change / (light + 0.05 * light.max())
    found = projections(amplitude, probe, offsets, 1)[0, 0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_modes", [1, 2])
def test_neighbours_bring_it_nearer_to_the_truth(n_modes):
    amplitude, probe, offsets, true = group(n_modes)
    first, apart, together = (
        likeness(found, true, probe)
        for found in (
            projections(amplitude, probe, offsets, 1),
            torch.cat(
                [
                    projections(amplitude[:, [c]], probe, offsets[:, [c]], 40)
                    for c in range(amplitude.shape[1])
                ],
                dim=1,
            ),
            projections(amplitude, probe, offsets, 40),
        )
    )
    flat = likeness(torch.ones_like(true), true, probe)
    print(
        f"flat {flat:.3f}, one round {first:.3f}, each by itself {apart:.3f}, group {together:.3f}"
    )
    assert flat < 0.1
    assert together > max(first, apart) + 0.05


def test_bad_pixels_have_no_say():
    amplitude, probe, offsets, true = group()
    bad = torch.zeros(1, N, N, dtype=torch.bool)
    bad[0, 14:18, 3:20] = True
    wrong = amplitude.masked_fill(bad[:, None], 1e6)
    found = projections(wrong, probe, offsets, 40, bad)
    assert torch.equal(found, projections(amplitude, probe, offsets, 40, bad))
    zeros = projections(amplitude.masked_fill(bad[:, None], 0), probe, offsets, 40)
    assert likeness(found, true, probe) > likeness(zeros, true, probe) + 0.02


@pytest.mark.parametrize("dark", ["probe", "frames"])
def test_darkness_gives_no_nan(dark):
    amplitude, probe, offsets, _ = group()
    found = projections(amplitude * (dark != "frames"), probe * (dark != "probe"), offsets, 3)
    assert found.shape == amplitude.shape
    assert torch.isfinite(torch.view_as_real(found)).all()


@pytest.fixture(scope="module")
def batch():
    scan = simulate_scan(n_frames=64, N=N, seed=4)
    data = PtychoDataModule(scan, batch_size=2, split="none", patch_positions="scan")
    data.setup("fit")
    return next(iter(data.train_dataloader()))


@pytest.mark.parametrize(("rounds", "sees_neighbours"), [(0, False), (3, True)])
def test_with_projections_the_network_sees_a_frame_beside_its_neighbours(
    batch, rounds, sees_neighbours
):
    torch.manual_seed(0)
    model = PtychoPINN(width=2, depth=2, projections=rounds).eval()
    torch.nn.init.normal_(model.network.head.weight)
    patches = model.patches(batch)
    other = batch.clone()
    other.X[..., 1:] = other.X[..., 1:].roll(3, dims=1)
    assert torch.equal(patches[:, 0], model.patches(other)[:, 0]) is not sees_neighbours
    assert not torch.equal(patches[:, 1], model.patches(other)[:, 1])


def test_a_scan_is_predicted_in_groups_where_neighbours_count():
    torch.manual_seed(0)
    scan = simulate_scan(n_frames=64, N=N, seed=4)
    for rounds, gridsize in ((0, 1), (2, 2)):
        model = PtychoPINN(width=2, depth=2, projections=rounds).eval()
        torch.nn.init.normal_(model.network.head.weight, std=0.1)
        neighbours = 6 if gridsize == 2 else 1
        grouping = GroupingConfig(gridsize=gridsize, neighbor_count=neighbours)
        data = PtychoDataModule(scan, grouping=grouping, split="none", ground_truth="none")
        found, expected = model.predict_object(scan), model.predict_object(data)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rounds", [-1, 1.5])
def test_a_number_of_rounds_is_a_whole_number_from_zero(rounds):
    with pytest.raises((OptionError, TypeError), match="projections"):
        PtychoPINN(projections=rounds)
