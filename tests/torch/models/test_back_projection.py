"""The first look at the object that the network starts from."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: estimates are tensors")

from ptycho_torch.models.back_projection import back_projection  # noqa: E402
from ptycho_torch.physics import diffract, illuminate  # noqa: E402
from ptycho_torch.simulation.scan import simulate_scan  # noqa: E402


@pytest.fixture(scope="module", params=[1, 2])
def scan(request):
    return simulate_scan(n_frames=16, N=32, photons=None, n_modes=request.param, seed=4)


def modes_of(scan):
    return torch.tensor(scan.probeGuess.reshape(1, -1, 32, 32))


def test_a_flat_object_looks_flat_where_the_probe_is_bright(scan):
    first = modes_of(scan)[:, :1]
    patches = 0.7 * torch.ones(1, 3, 32, 32, dtype=torch.complex64)
    estimate = back_projection(diffract(illuminate(first, patches)), modes_of(scan))
    light = first.abs().square()[0, 0]
    bright = light > 0.5 * light.max()
    assert estimate.shape == (1, 3, 32, 32)
    assert (estimate[0, :, bright] - 0.7).abs().max() < 0.1
    # Divided by |P|^2 and a twentieth of its maximum.
    expected = 0.7 * light / (light + 0.05 * light.max())
    torch.testing.assert_close(estimate[0, 0].real, expected, rtol=1e-3, atol=1e-4)


def test_it_shows_more_of_a_real_object_than_a_flat_one_does():
    scan = simulate_scan(n_frames=64, N=32, photons=None, seed=4, object_size=70)
    true = true_patches(scan)
    frames = torch.tensor(scan.diff3d)[:, None]
    probe = modes_of(scan).expand(64, -1, -1, -1)
    estimate = back_projection(frames, probe)[:, 0].numpy()
    light = np.abs(scan.probeGuess) ** 2
    bright = light > 0.3 * light.max()

    def centred(values):
        part = values[:, bright] - values[:, bright].mean(axis=1, keepdims=True)
        return part.ravel()

    a, b = centred(estimate), centred(true)
    likeness = abs(np.vdot(a, b)) / (np.linalg.norm(a) * np.linalg.norm(b))
    print(f"centred correlation {likeness:.3f}; a flat object has 0")
    assert likeness > 0.3


def true_patches(scan):
    """Bilinear patches, by NumPy."""
    half = scan.N // 2
    padded = np.pad(scan.objectGuess, 1)
    out = []
    for x, y in zip(scan.xcoords, scan.ycoords, strict=True):
        row, column = int(np.floor(y)) - half + 1, int(np.floor(x)) - half + 1
        fy, fx = y - np.floor(y), x - np.floor(x)
        tile = padded[row : row + scan.N + 1, column : column + scan.N + 1]
        rows = (1 - fy) * tile[:-1] + fy * tile[1:]
        out.append((1 - fx) * rows[:, :-1] + fx * rows[:, 1:])
    return np.stack(out)


@pytest.mark.parametrize("dark", ["probe", "frame", "both"])
def test_darkness_gives_zero_and_no_nan_also_in_gradients(dark):
    amplitude, probe = torch.rand(2, 1, 16, 16), torch.randn(2, 2, 16, 16, dtype=torch.complex64)
    if dark != "probe":
        amplitude[0] = 0
    if dark != "frame":
        probe[0] = 0
    amplitude.requires_grad_()
    estimate = back_projection(amplitude, probe)
    assert not estimate[0].any()
    assert estimate[1].abs().max() > 0
    estimate.abs().square().sum().backward()
    assert torch.isfinite(amplitude.grad).all()


def test_only_the_first_mode_counts():
    amplitude, probe = torch.rand(2, 3, 16, 16), torch.randn(2, 2, 16, 16, dtype=torch.complex64)
    both = back_projection(amplitude, probe)
    assert torch.equal(both, back_projection(amplitude, probe[:, :1]))
    assert not torch.equal(both, back_projection(amplitude, probe.flip(1)))
