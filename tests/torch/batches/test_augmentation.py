"""Augmented batches: what the forward model gives, the same however they are made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import quiet_trainer
from scipy import stats

torch = pytest.importorskip("torch", reason="torch is not installed: batches are its")
pytest.importorskip("tensordict", reason="tensordict is not installed: batches are its")

from ptycho_torch import (  # noqa: E402
    Augmentation,
    GroupingConfig,
    ObjectFit,
    PtychoBatch,
    PtychoDataModule,
    PtychoDataset,
    simulate_scan,
)
from ptycho_torch.batches import counted_random, dihedral  # noqa: E402
from ptycho_torch.physics import diffract, illuminate, object_patches  # noqa: E402

EVERYTHING = {
    "photons": (2e3, 5e3), "dihedral": True, "dead_pixels": 0.03, "beamstop_px": (1.0, 2.0),
    "scale": (0.5, 2.0), "seed": 3,
}  # fmt: skip
SCAN = simulate_scan(n_frames=80, N=16, photons=1e4, n_modes=2, seed=0)


def batch_of(N: int, gridsize: int, photons: float | None = None) -> PtychoBatch:
    scan = simulate_scan(n_frames=40, N=N, photons=photons, n_modes=2, seed=1)
    grouping = GroupingConfig(gridsize=gridsize)
    return PtychoDataset(scan, grouping=grouping, patch_positions="scan")[0:24]


def modelled(batch: PtychoBatch, patches: Any) -> Any:
    amplitude = diffract(illuminate(batch.probe, patches))
    return batch.scale[:, None, None, None] * amplitude


def assert_close(found: Any, wanted: Any, rtol: float = 2e-5) -> None:
    assert float((found - wanted).abs().max()) <= rtol * float(wanted.abs().max())


# -- counts --------------------------------------------------------------------------------


def test_numbers_are_those_of_splitmix64() -> None:
    keys = torch.tensor([5, -7], dtype=torch.int64)

    def mixed(z: Any) -> Any:
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    with np.errstate(over="ignore"):
        state = mixed(keys.numpy().astype(np.uint64) + np.uint64(2))
        steps = np.arange(1, 9, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        bits = mixed(state[:, None] + steps) >> np.uint64(41)
    wanted = ((bits.astype(np.float64) + 0.5) / 2**23).astype(np.float32)
    assert np.array_equal(counted_random.uniform(keys, 2, 8).numpy(), wanted)
    assert wanted.min() > 0 and wanted.max() < 1


@pytest.mark.parametrize(
    ("n", "kept"),
    [(1, 0.3), (7, 0.9), (30, 0.5), (40, 0.2), (60, 0.15), (400, 0.03), (1000, 0.97), (5000, 0.4)],
)
def test_thinned_counts_have_the_binomial_distribution(n: int, kept: float) -> None:
    u = (torch.arange(2**17) + 0.5) / 2**17
    drawn = counted_random.thinned(torch.full_like(u, n), torch.tensor(kept), u)
    shares = np.bincount(drawn.long().numpy(), minlength=n + 1) / len(u)
    wanted = stats.binom(n, kept).pmf(np.arange(n + 1))
    assert 0.5 * np.abs(shares - wanted).sum() < 1e-3


@pytest.mark.parametrize("mean", [0.0, 0.02, 3.0, 7.9, 8.1, 50.0, 2000.0])
def test_poisson_counts_have_the_poisson_distribution(mean: float) -> None:
    u = (torch.arange(2**17) + 0.5) / 2**17
    drawn = counted_random.poisson(torch.full_like(u, mean), u)
    shares = np.bincount(drawn.long().numpy())
    wanted = stats.poisson(mean).pmf(np.arange(len(shares)))
    assert 0.5 * np.abs(shares / len(u) - wanted).sum() < 1e-3


@pytest.mark.parametrize(("noise_free", "photons"), [(False, 2e3), (True, 2e3), (True, 1e6)])
def test_photons_give_counts_of_that_mean_and_keep_what_belongs_together(
    noise_free: bool, photons: float
) -> None:
    batch = batch_of(16, 2, None if noise_free else 1e4)
    out = Augmentation(photons=photons, noise_free=noise_free)(batch, 0)
    counts = (out.X / out.scale[:, None, None, None]) ** 2
    assert_close(counts, counts.round(), 1e-5)
    # The batch is 24 of 40 groups, whose mean is the scan's within a few percent.
    assert float(counts.sum((1, 2)).mean()) == pytest.approx(photons, rel=0.05)
    kept = photons / float((8 / batch.scale[0]) ** 2)
    expected = kept * (batch.X / batch.scale[0]) ** 2
    pull = (counts - expected) / expected.clamp(min=1).sqrt()
    # Thinned counts lie nearer to those they are of than counts drawn anew.
    spread = float(pull[expected > 4].std())
    assert spread == pytest.approx(1.0 if noise_free else (1 - kept) ** 0.5, rel=0.06)
    model = modelled(out, batch.Y.movedim(-1, 1))
    assert_close(model, modelled(batch, batch.Y.movedim(-1, 1)))


def test_photons_that_were_not_measured_are_refused(tmp_path: Path) -> None:
    path = SCAN.to_file(tmp_path / "scan.npz")
    data = PtychoDataModule(
        path, ground_truth="none", split="none", augmentation=Augmentation(photons=1e6)
    )
    with pytest.raises(ValueError, match=r"scan\.npz: photons is up to 1e\+06; expected at most 1"):
        data.train_dataloader()
    clean = simulate_scan(n_frames=40, N=16, photons=None, seed=0)
    data = PtychoDataModule(
        clean, ground_truth="none", augmentation=Augmentation(photons=1e-6), split="none"
    )
    with pytest.raises(ValueError, match=r"no whole counts.*Set noise_free=true"):
        data.train_dataloader()


# -- the eight elements ----------------------------------------------------------------------


@pytest.mark.parametrize("element", range(8))
@pytest.mark.parametrize("N", [16, 15])
@pytest.mark.parametrize("gridsize", [1, 2])
def test_turned_frames_are_those_of_turned_probe_and_patches(
    element: int, N: int, gridsize: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(N, gridsize)
    monkeypatch.setattr(
        "ptycho_torch.batches.sample_changes.uniform",
        lambda keys, stream, count: torch.full((len(keys), count), (element + 0.5) / 8),
    )
    out = Augmentation(dihedral=True)(batch, 0)
    assert torch.equal(out.X, batch.X) is (element == 0)
    for name in ("nn_indices", "scan_id", "scale"):
        assert torch.equal(getattr(out, name), getattr(batch, name))
    # By the patches of the batch, to rounding.
    assert_close(modelled(batch, batch.Y.movedim(-1, 1)), batch.channels_first())
    assert_close(modelled(out, out.Y.movedim(-1, 1)), out.channels_first())
    # By the object, turned about its pixel (0, 0), at the turned positions. Row and column 0 of an
    # even side have no mirror image; a probe that is dark there does not see them.
    dark = batch.probe.clone()
    dark[..., : 1 - N % 2, :] = 0
    dark[..., : 1 - N % 2] = 0
    obj = torch.from_numpy(simulate_scan(n_frames=40, N=N, n_modes=2, seed=1).objectGuess.copy())
    before = modelled(batch.replace(probe=dark), object_patches(obj, batch.positions, N))
    seen, turned, start = Augmentation(dihedral=True)(batch.replace(probe=dark), 0), obj, [0, 0]
    for flip, axis in ((dihedral.FLIP_X, 1), (dihedral.FLIP_Y, 0)):
        if element & flip:
            turned = turned.flip(axis)
            start[1 - axis] = obj.shape[axis] - 1
    if element & dihedral.SWAP:
        turned, start = turned.T, start[::-1]
    places = seen.positions + torch.tensor(start, dtype=torch.float64)
    after = modelled(seen, object_patches(turned.contiguous(), places, N))
    wanted = dihedral.turned_pixels(before, torch.full((len(before),), element))
    assert_close(after, wanted, 1e-4)
    assert torch.allclose(out.coords_nominal.double(), out.local_offsets, atol=1e-4), (
        "nominal positions are the measured ones here"
    )


@pytest.mark.filterwarnings("ignore:patch_positions")
@pytest.mark.parametrize("modes", [1, 3])
@pytest.mark.parametrize("gridsize", [1, 2, 3])
@pytest.mark.parametrize("patch_positions", ["scan", "reference"])
def test_turned_labels_fit_turned_frames_as_well_as_they_did_before(
    gridsize: int, modes: int, patch_positions: Any
) -> None:
    scan = simulate_scan(n_frames=40, N=16, photons=None, n_modes=modes, seed=1)
    grouping = GroupingConfig(gridsize=gridsize, neighbor_count=max(6, gridsize**2))
    batch = PtychoDataset(scan, grouping=grouping, patch_positions=patch_positions)[0:32]
    out = Augmentation(dihedral=True)(batch, 0)
    turned = (out.X != batch.X).flatten(1).any(1)
    assert int(turned.sum()) > 20, "hardly any is turned"

    def misfit(frames: PtychoBatch, labels: Any) -> Any:
        off = modelled(frames, labels.movedim(-1, 1)) - frames.channels_first()
        return off.flatten(1).norm(dim=1) / frames.X.flatten(1).norm(dim=1)

    before, after = misfit(batch, batch.Y), misfit(out, out.Y)
    if patch_positions == "scan" or gridsize == 1:
        assert after.max() < 2e-5
        assert misfit(out, batch.Y)[turned].min() > 1e-3, "labels that stay would do too"
    else:
        # Labels mirrored about the group's centre misfit, turned or not, by the same.
        assert before.min() > 1e-3
    assert torch.allclose(after, before, rtol=1e-3, atol=2e-5)


def test_a_flip_of_an_even_side_keeps_zero_frequency_in_its_place() -> None:
    for N in (8, 7):
        frames = torch.zeros(8, 1, N, N)
        frames[..., N // 2, N // 2] = 1
        assert torch.equal(dihedral.turned_pixels(frames, torch.arange(8)), frames)
    row = torch.arange(8.0).expand(1, 8, 8)
    flipped = dihedral.turned_pixels(row, torch.tensor([dihedral.FLIP_X]))
    assert flipped[0, 0].tolist() == [0, 7, 6, 5, 4, 3, 2, 1]


def test_the_eight_elements_differ_and_all_are_drawn() -> None:
    picture = torch.rand(8, 5, 5)
    turned = dihedral.turned_pixels(picture[:1].expand(8, 5, 5), torch.arange(8))
    assert len({str(one.tolist()) for one in turned}) == 8
    keys = counted_random.sample_keys(0, 0, torch.arange(400))
    drawn = (counted_random.uniform(keys, 0, 1) * 8).long()
    assert sorted(set(drawn.flatten().tolist())) == list(range(8))


# -- the detector ----------------------------------------------------------------------------


def test_dead_pixels_and_beamstop_are_bad_and_x_is_zero_there() -> None:
    batch = batch_of(16, 2)
    out = Augmentation(dead_pixels=0.05, beamstop_px=2.0)(batch, 0)
    assert out.bad_pixels.dtype == torch.bool and out.bad_pixels.shape == (24, 16, 16)
    assert not out.X[out.bad_pixels].any()
    good = ~out.bad_pixels
    assert torch.equal(out.X[good], batch.X[good])
    assert batch.bad_pixels is None and batch.X[:, 8, 8].all(), "the given batch is changed"
    rows, columns = torch.meshgrid(torch.arange(16) - 8, torch.arange(16) - 8, indexing="ij")
    disc = rows**2 + columns**2 <= 4
    assert out.bad_pixels[:, disc].all()
    assert float(out.bad_pixels[:, ~disc].float().mean()) == pytest.approx(0.05, abs=0.01)
    assert not torch.equal(out.bad_pixels[0], out.bad_pixels[1])


def test_bad_pixels_that_a_batch_has_stay_bad_and_turn_with_its_frames() -> None:
    batch = batch_of(16, 2)
    bad = torch.zeros(24, 16, 16, dtype=torch.bool)
    bad[:, 3, 5] = True
    marked = batch.replace(bad_pixels=bad, X=batch.X.masked_fill(bad[..., None], 0.0))
    out = Augmentation(dihedral=True, dead_pixels=0.01)(marked, 0)
    assert not out.X[out.bad_pixels].any()
    assert ((out.X == 0).all(-1) <= out.bad_pixels).all()
    places = {(3, 5), (3, 11), (13, 5), (13, 11), (5, 3), (5, 13), (11, 3), (11, 13)}
    found = {tuple(p) for one in out.bad_pixels for p in one.nonzero().tolist()}
    assert places <= found


def test_scale_is_a_factor_of_x_and_scale() -> None:
    batch = batch_of(16, 2)
    out = Augmentation(scale=(0.5, 2.0))(batch, 0)
    factor = out.scale / batch.scale
    assert 0.5 <= factor.min() < 0.9 and 1.1 < factor.max() <= 2
    assert_close(out.X, batch.X * factor[:, None, None, None], 1e-6)


# -- the same however it is made ------------------------------------------------------------


def by_group(batches: Any) -> dict[tuple[int, ...], dict[str, Any]]:
    found = {}
    for batch in batches:
        for row in range(len(batch)):
            key = tuple(batch.nn_indices[row].tolist())
            found[key] = {name: value[row].clone() for name, value in batch.items()}
    return found


def data(**options: Any) -> PtychoDataModule:
    options = {"split": "none", "patch_positions": "scan", "batch_size": 16, **options}
    return PtychoDataModule(SCAN, augmentation=Augmentation(**EVERYTHING), **options)


def assert_equal(found: Any, wanted: Any) -> None:
    assert found.keys() <= wanted.keys()
    for group, fields in found.items():
        for name, value in fields.items():
            assert torch.equal(value, wanted[group][name]), name


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 7},
        {"batch_size": 80},
        {"num_workers": 2},
        {"assemble_on": "worker"},
        {"seed": 9},
        {"shuffle": False},
    ],
)
def test_a_sample_is_changed_alike_whatever_its_batch(options: Any) -> None:
    whole = by_group(data().train_dataloader())
    assert_equal(by_group(data(**options).train_dataloader()), whole)


def test_every_epoch_changes_a_sample_anew_and_a_seed_draws_the_same() -> None:
    loader = data().train_dataloader()
    epochs = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)
        epochs.append(by_group(loader))
    assert_equal(epochs[2], epochs[0])
    same = [torch.equal(epochs[1][group]["X"], one["X"]) for group, one in epochs[0].items()]
    assert not any(same)
    other = Augmentation(**{**EVERYTHING, "seed": 4})
    batch = PtychoDataset(SCAN, ground_truth="none")[0:8]
    assert not torch.equal(other(batch, 0).X, Augmentation(**EVERYTHING)(batch, 0).X)


def recorder() -> Any:
    from lightning.pytorch import LightningModule

    class Recorder(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            self.train_batches: list[Any] = []
            self.val_batches: list[Any] = []

        def training_step(self, batch: Any, index: int) -> Any:
            self.train_batches.append((self.current_epoch, batch))
            return (self.weight * batch.X.mean()).sum()

        def validation_step(self, batch: Any, index: int) -> None:
            self.val_batches.append(batch)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Recorder()


@pytest.mark.slow
@pytest.mark.parametrize("assemble_on", ["auto", "device", "worker"])
def test_a_trainer_gets_each_epochs_changes_and_validates_on_the_scan_as_it_is(
    assemble_on: Any, tmp_path: Path
) -> None:
    plain = by_group(PtychoDataset(SCAN, patch_positions="scan")[i : i + 1] for i in range(80))
    loader = data().train_dataloader()
    model = recorder()
    trainer = quiet_trainer(tmp_path, max_epochs=2, num_sanity_val_steps=0)
    trainer.fit(model, datamodule=data(assemble_on=assemble_on))
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)
        assert_equal(by_group(b for e, b in model.train_batches if e == epoch), by_group(loader))
    assert_equal(by_group(model.val_batches), plain)


@pytest.mark.slow
def test_a_resumed_epoch_goes_on_with_its_changes(tmp_path: Path) -> None:
    first = recorder()
    trainer = quiet_trainer(tmp_path, max_steps=2, limit_val_batches=0)
    trainer.fit(first, datamodule=data())
    trainer.save_checkpoint(tmp_path / "stop.ckpt")
    second = recorder()
    trainer = quiet_trainer(tmp_path, max_epochs=1, limit_val_batches=0)
    trainer.fit(second, datamodule=data(batch_size=8), ckpt_path=tmp_path / "stop.ckpt")
    rest = by_group(batch for _, batch in second.train_batches)
    assert len(rest) == 80 - 32
    assert_equal(rest, by_group(data().train_dataloader()))


def test_a_sample_of_several_scans_is_changed_by_its_scan_too() -> None:
    scans = [SCAN, simulate_scan(n_frames=80, N=16, photons=1e4, n_modes=2, seed=0)]
    loader = PtychoDataModule(
        scans, split="none", batch_size=160, ground_truth="none", shuffle=False,
        augmentation=Augmentation(dihedral=True),
    ).train_dataloader()  # fmt: skip
    (batch,) = loader
    assert torch.equal(batch.nn_indices[:80], batch.nn_indices[80:])
    assert not torch.equal(batch.X[:80], batch.X[80:])


# -- options ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"photons": 0}, "photons is 0; expected finite and above 0"),
        ({"photons": (3, 2)}, r"photons is \(3, 2\); expected finite and above 0, low <= high"),
        ({"scale": "2"}, "scale is '2'; expected a number, or a pair"),
        ({"beamstop_px": (1, 2, 3)}, "beamstop_px is"),
        ({"dead_pixels": 1.0}, "dead_pixels is 1.0; expected a share"),
        ({"dihedral": 1}, "dihedral is 1; expected True or False"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_options_that_cannot_work_are_refused(options: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Augmentation(**options)


def test_the_data_module_takes_what_a_checkpoint_keeps() -> None:
    kept = data().hparams["augmentation"]
    assert isinstance(kept, dict) and kept["photons"] == [2e3, 5e3]
    again = PtychoDataModule(SCAN, augmentation=kept)
    assert again.augmentation == Augmentation(**EVERYTHING)
    with pytest.raises(ValueError, match=r"augmentation\.fotons is an unknown key"):
        PtychoDataModule(SCAN, augmentation={"fotons": 1})  # type: ignore[arg-type]


def test_object_fit_refuses_augmented_batches(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    with pytest.raises(ValueError, match="augmentation is one beside ObjectFit; expected none"):
        trainer.fit(ObjectFit(), datamodule=data())
