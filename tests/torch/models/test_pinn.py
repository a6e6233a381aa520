"""PtychoPINN: its forward model against NumPy, what its network sees, and what it learns from."""

from __future__ import annotations

import warnings
from typing import get_args

import numpy as np
import pytest
from builders import quiet_trainer

torch = pytest.importorskip("torch", reason="torch is not installed: a network is trained")
pytest.importorskip("lightning", reason="lightning is not installed: it trains")

from ptycho_torch.batches.simulated_scans import SimulatedScans  # noqa: E402
from ptycho_torch.data.config import GroupingConfig  # noqa: E402
from ptycho_torch.data.errors import OptionError, ScanFileError  # noqa: E402
from ptycho_torch.data.geometry import Geometry  # noqa: E402
from ptycho_torch.data.raw_data import RawData  # noqa: E402
from ptycho_torch.datamodule import PtychoDataModule  # noqa: E402
from ptycho_torch.models.frame_losses import FrameLoss  # noqa: E402
from ptycho_torch.models.pinn import PtychoPINN  # noqa: E402
from ptycho_torch.simulation.scan import simulate_scan  # noqa: E402

N = 16
SMALL = {"width": 4, "depth": 3, "learning_rate": 1e-2}


def data_for(scans, gridsize=2, **options):
    grouping = GroupingConfig(gridsize=gridsize, neighbor_count=max(6, gridsize**2))
    options = {"split": "none", "cache": "off", "batch_size": 8, **options}
    return PtychoDataModule(scans, grouping=grouping, **{"patch_positions": "scan", **options})


def smooth_noise(shape, random):
    """Complex, about 1, without jumps: a quarter of the frequencies."""
    noise = random.normal(size=shape) + 1j * random.normal(size=shape)
    keep = np.hypot(
        *(np.fft.fftfreq(size)[:, None] for size in shape[:1]), np.fft.fftfreq(shape[1])
    )
    smooth = np.fft.ifft2(np.fft.fft2(noise) * (keep < 0.12))
    return 1 + 0.3 * smooth / np.abs(smooth).max()


def known_scan(n_modes=1, seed=0, whole=True, photons=None, strength=1.0, bad=None, n_frames=40):
    """A scan of which NumPy makes the frames; patches cut at whole positions, or bilinearly."""
    random = np.random.default_rng(seed)
    obj = smooth_noise((40, 44), random).astype(np.complex64)
    rows, columns = np.mgrid[:N, :N] - N // 2
    aperture = np.exp(-(rows**2 + columns**2) / 30) * np.exp(0.02j * (rows**2 + columns**2))
    modes = np.stack([aperture * (rows + 3) ** number * 0.3**number for number in range(n_modes)])
    modes *= np.sqrt(1e4 / (np.abs(modes) ** 2).sum())
    x = random.uniform(N // 2, 44 - N // 2 - 2, n_frames)
    y = random.uniform(N // 2, 40 - N // 2 - 2, n_frames)
    if whole:
        x, y = x.round(), y.round()
    frames = []
    for xi, yi in zip(x, y, strict=True):
        row, column = int(yi) - N // 2, int(xi) - N // 2
        fy, fx = yi - int(yi), xi - int(xi)
        tile = obj[row : row + N + 1, column : column + N + 1]
        tile = (1 - fy) * tile[:-1] + fy * tile[1:]
        patch = (1 - fx) * tile[:, :-1] + fx * tile[:, 1:]
        waves = np.fft.fftshift(np.fft.fft2(modes * patch, norm="ortho"), axes=(1, 2))
        frames.append(np.sqrt((np.abs(waves) ** 2).sum(axis=0)))
    frames = np.array(frames)
    if photons is not None:
        frames *= np.sqrt(photons / 1e4)[:, None, None]
    if bad is not None:
        frames[:, bad] = 1e4
    probe = (strength * modes if n_modes > 1 else strength * modes[0]).astype(np.complex64)
    return RawData(
        x, y, x, y, frames.astype(np.float32), probe, np.zeros(n_frames, int), objectGuess=obj,
        bad_pixels=bad, frame_photons=photons,
    )  # fmt: skip


def whole_batch(data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = data.dataset("train")
    return dataset.__getitems__(range(len(dataset)))


def error_of(model, batch, patches=None):
    """RMS difference of modelled and measured frames, in units of the measured."""
    X = batch.channels_first()
    patches = batch.Y.movedim(-1, 1) if patches is None else patches
    return float((model.frames(batch, patches) - X).detach().norm() / X.norm())


@pytest.mark.parametrize("gridsize", [1, 2, 3])
@pytest.mark.parametrize("n_modes", [1, 2])
@pytest.mark.parametrize("varies", [False, True])
def test_frames_of_the_true_patches_are_the_measured_ones(gridsize, n_modes, varies):
    photons = np.random.default_rng(1).uniform(3e3, 2e4, 40) if varies else None
    scan = known_scan(n_modes, photons=photons)
    batch = whole_batch(data_for(scan, gridsize))
    assert batch.X.shape[-1] == gridsize**2
    model = PtychoPINN(**SMALL)
    flat = torch.ones_like(batch.Y.movedim(-1, 1))
    assert error_of(model, batch) < 1e-5 < 0.05 < error_of(model, batch, flat)
    if varies:
        assert error_of(model, batch.replace(frame_photons=batch.frame_photons.flip(1, 0))) > 0.05


@pytest.mark.parametrize("gridsize, most", [(1, 1e-5), (2, 0.03), (3, 0.03)])
def test_frames_at_sub_pixel_positions_are_off_by_what_the_merge_smooths(gridsize, most):
    batch = whole_batch(data_for(known_scan(whole=False), gridsize))
    model = PtychoPINN(**SMALL)
    flat = error_of(model, batch, torch.ones_like(batch.Y.movedim(-1, 1)))
    print(f"{error_of(model, batch):.4f}; a flat object {flat:.4f}")
    assert error_of(model, batch) < most < flat / 2


def test_scans_with_other_probes_share_a_network_and_keep_their_own_forward_model():
    scans = [known_scan(1, seed=1), known_scan(2, seed=2)]
    batch = whole_batch(data_for(scans))
    assert batch.probe.shape[1] == 2
    model = PtychoPINN(**SMALL)
    assert error_of(model, batch) < 1e-5
    swapped = batch.replace(probe=batch.probe.roll(len(batch.X) // 2, 0))
    assert error_of(model, swapped) > 0.05
    # A mode that is 0 where scans have fewer changes nothing: the first scan by itself looks alike.
    single = whole_batch(data_for(scans[0]))
    model = grown(model, batch)
    together = model.patches(batch[: len(single.X)])
    torch.testing.assert_close(together, model.patches(single), rtol=1e-4, atol=1e-5)


def grown(model, batch):
    """The model with a head that has left zero, so that its patches depend on its inputs."""
    torch.manual_seed(1)
    torch.nn.init.normal_(model.network.head.weight)
    model.train()
    with torch.no_grad():
        for _ in range(30):
            model.patches(batch)
    return model.eval()


@pytest.mark.parametrize("loss", get_args(FrameLoss))
def test_bad_pixels_reach_neither_the_loss_nor_the_network(loss):
    bad = np.zeros((N, N), bool)
    bad[3, 5:9] = bad[N // 2] = True
    batch = whole_batch(data_for(known_scan(bad=bad)))
    model = grown(PtychoPINN(**SMALL, loss=loss), batch)
    patches = model.patches(batch)
    # The truth costs nothing, whatever the file has at bad pixels; without the mask it does.
    assert error_of(model, batch) < 1e-5
    assert error_of(model, batch.replace(bad_pixels=torch.zeros_like(batch.bad_pixels))) > 0.1
    other = known_scan(bad=bad)
    frames = other.diff3d.copy()
    frames[:, bad] = 7
    changed = RawData(
        other.xcoords, other.ycoords, other.xcoords, other.ycoords, frames, other.probeGuess,
        other.scan_index, objectGuess=other.objectGuess, bad_pixels=bad,
    )  # fmt: skip
    assert torch.equal(model.patches(whole_batch(data_for(changed))), patches)
    assert not model(batch)[:, :, torch.from_numpy(bad)].any()


def test_a_frame_of_more_light_shows_the_same_patch():
    photons = np.linspace(3e3, 3e4, 40)
    scans = [known_scan(photons=photons), known_scan(photons=np.full(40, 1e4))]
    brighter, even = (whole_batch(data_for(scan, 1)) for scan in scans)
    # X is in units of the scan's own mean energy.
    unit = (even.scale / brighter.scale)[0]
    brighter = brighter.replace(X=brighter.X * unit, scale=brighter.scale * unit)
    model = grown(PtychoPINN(**SMALL), even)
    torch.testing.assert_close(model.patches(brighter), model.patches(even), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(
        model.patches(brighter.replace(frame_photons=even.frame_photons)), model.patches(even), 1e-2
    )


def fitted(model, data, steps=12, **options):
    torch.manual_seed(0)
    trainer = quiet_trainer(max_steps=steps, max_epochs=-1, limit_val_batches=0, **options)
    trainer.fit(model, datamodule=data)
    return trainer


def test_a_new_network_says_a_flat_object():
    batch = whole_batch(data_for(known_scan()))
    patches = PtychoPINN(**SMALL).patches(batch)
    assert patches.dtype == torch.complex64
    assert torch.equal(patches, torch.ones_like(patches))


@pytest.mark.slow
@pytest.mark.parametrize("gridsize", [1, 2, 3])
@pytest.mark.parametrize("loss", get_args(FrameLoss))
def test_it_learns_by_any_loss_and_gridsize(loss, gridsize):
    data, model = data_for(known_scan(2), gridsize), PtychoPINN(**SMALL, loss=loss)
    before = error_of(model, whole_batch(data), model.patches(whole_batch(data)))
    fitted(model, data, steps := 120)
    model.train()
    batch = whole_batch(data)
    after = error_of(model, batch, model.patches(batch).detach())
    print(f"{loss}, gridsize {gridsize}: {before:.3f} (flat) to {after:.3f}, {steps} steps")
    assert after < 0.8 * before


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_labels_cost_nothing_where_the_patches_are_true(weight):
    batch = whole_batch(data_for(known_scan()))
    model = PtychoPINN(**SMALL, supervised_weight=weight)
    model.log = lambda *_, **__: None
    costs = {}
    for name, patches in (
        ("true", batch.Y.movedim(-1, 1)), ("flat", torch.ones_like(batch.Y.movedim(-1, 1)))
    ):  # fmt: skip
        model.patches = lambda _, patches=patches: patches
        costs[name] = model.training_step(batch, 0).item()
    assert costs["true"] < 1e-8 < 1e-4 < costs["flat"]


@pytest.mark.slow
@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_it_learns_from_labels(weight):
    data, model = data_for(known_scan()), PtychoPINN(**SMALL, supervised_weight=weight)
    batch = whole_batch(data)
    true = batch.Y.movedim(-1, 1)
    light = batch.probe.abs().square().sum(1, keepdim=True).sqrt()
    flat = float((light * (true - 1)).norm())
    fitted(model, data, 120)
    model.train()
    assert float((light * (model.patches(batch).detach() - true)).norm()) < 0.8 * flat


@pytest.mark.parametrize(
    "options, message",
    [
        ({"patch_positions": "reference"}, r"patch_positions is 'reference'.*Type: patch_pos"),
        ({"ground_truth": "none"}, r"supervised_weight is above 0 without ground truth"),
    ],
)
def test_labels_that_are_mirrored_or_absent_are_refused(options, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(OptionError, match=message) as caught:
            fitted(PtychoPINN(**SMALL, supervised_weight=0.5), data_for(known_scan(), **options))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_learned_intensity_makes_up_for_a_wrong_probe_and_the_patches_stay():
    data, model = data_for(known_scan(strength=1.3)), PtychoPINN(**SMALL, learn_intensity=True)
    fitted(model, data, 150)
    batch = whole_batch(data)
    model.train()
    light = batch.probe.abs().square().sum(1, keepdim=True)
    mean = float(
        (light * model.patches(batch).detach().abs()).sum()
        / (light.expand(*batch.nn_indices.shape, N, N)).sum()
    )
    factor = float(model.intensity.detach().exp())
    print(f"factor {factor:.3f}, expected {1 / 1.3:.3f}; mean modulus {mean:.3f}")
    assert factor * mean == pytest.approx(1 / 1.3, rel=0.05)
    assert mean == pytest.approx(1, abs=0.12)
    still = PtychoPINN(**SMALL)
    fitted(still, data, 2)
    assert float(still.intensity) == 0


def test_a_side_that_depth_does_not_halve_and_a_near_field_are_refused_before_the_first_step():
    scan = known_scan()
    with pytest.raises(OptionError, match=r"depth is 6 for frames of N = 16.*multiple of 32"):
        fitted(PtychoPINN(width=4, depth=6), data_for(scan))
    near = RawData(
        scan.xcoords, scan.ycoords, scan.xcoords, scan.ycoords, scan.diff3d, scan.probeGuess,
        scan.scan_index, geometry=Geometry(near_field=True),
    )  # fmt: skip
    with pytest.raises(OptionError, match="near field"):
        fitted(PtychoPINN(**SMALL), data_for(near))


@pytest.mark.parametrize(
    "options, field",
    [
        ({"width": 0}, "width"), ({"depth": 0}, "depth"), ({"loss": "mse"}, "loss"),
        ({"schedule": "step"}, "schedule"), ({"supervised_weight": 1.5}, "supervised_weight"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(options, field):
    with pytest.raises(OptionError, match=f"^{field} is "):
        PtychoPINN(**options)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_it_learns_noisy_frames_in_either_precision(precision):
    scan = simulate_scan(n_frames=64, N=N, seed=2)
    data, model = data_for(scan, ground_truth="none"), PtychoPINN(**SMALL)
    trainer = fitted(model, data, 60, precision=precision)
    flat = fitted(PtychoPINN(**{**SMALL, "learning_rate": 1e-12}), data, 8)
    error, of_flat = (
        float(each.callback_metrics["train_fourier_error"]) for each in (trainer, flat)
    )
    print(f"{precision}: Fourier error {error:.3f}; a flat object {of_flat:.3f}")
    assert error < 0.8 * of_flat


def test_photons_in_the_unit_of_a_monitor_model_the_frames_as_photons_do(caplog):
    photons = np.random.default_rng(1).uniform(3e3, 2e4, 40)
    photons *= 1e4 / photons.mean()
    scan = known_scan(photons=photons)
    with caplog.at_level("INFO", "ptycho_torch.batches.scans"):
        whole_batch(data_for(scan))
        assert not caplog.records
        monitor = scan.sharing(scan, frame_photons=photons / 1e7)
        batch = whole_batch(data_for(monitor))
    assert "frame_photons are 0.001 in the mean beside a probe of 1e+04 photons" in caplog.text
    model = grown(PtychoPINN(**SMALL), batch)
    assert error_of(model, batch) < 1e-5
    assert error_of(model, batch.replace(frame_photons=batch.frame_photons / 1e7)) > 0.9
    first, second = (model.predict_object(each, quiet_trainer()) for each in (scan, monitor))
    assert np.std(np.abs(first)) > 0.01
    np.testing.assert_allclose(first, second, rtol=1e-4)


@pytest.mark.parametrize(
    "other, words",
    [
        (
            dict(SMALL, width=3),
            "a network of width {0} and depth 3; expected a network of width {1}",
        ),
        (None, "weights of another model; expected a checkpoint of PtychoPINN"),
    ],
)
def test_a_checkpoint_of_other_weights_is_one_line_with_its_file(other, words, tmp_path):
    scan = known_scan()
    path = tmp_path / "other.ckpt"
    if other is None:
        saved = {"pytorch-lightning_version": "2.6.0", "state_dict": {"layer": torch.zeros(2)}}
        torch.save(saved, path)
    else:
        trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
        trainer.fit(PtychoPINN(**other), datamodule=data_for(scan))
        trainer.save_checkpoint(path)
    with pytest.raises(ScanFileError) as refused:
        quiet_trainer().predict(
            PtychoPINN(**SMALL), datamodule=data_for(scan), ckpt_path=path, weights_only=True
        )
    expected = words.format(3, SMALL["width"])
    assert expected in str(refused.value) and "other.ckpt" in str(refused.value)


def test_a_network_starts_on_simulated_scans_without_making_an_epoch(monkeypatch):
    scans = SimulatedScans(N=16, n_scans=2, frames_per_scan=36, specimens="cells")
    made = []
    monkeypatch.setattr(SimulatedScans, "scan", lambda self, *number: made.append(number))
    fitted(PtychoPINN(**SMALL), PtychoDataModule(scans, batch_size=8), steps=1)
    assert not made


class OfNoNumber(PtychoPINN):
    def patches(self, batch):
        return super().patches(batch) * float("nan")


def test_a_loss_that_is_no_number_ends_the_fit_in_one_line():
    data = PtychoDataModule(
        simulate_scan(n_frames=49, N=16, seed=1), split="none", ground_truth="none"
    )
    with pytest.raises(OptionError, match="train_loss is nan; expected a finite number"):
        quiet_trainer(max_steps=2).fit(OfNoNumber(width=2, depth=2), datamodule=data)
