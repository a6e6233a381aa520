"""SimulatedScans: the batches of files, the same numbers anywhere, endless and never twice."""

from __future__ import annotations

import contextlib
import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import quiet_trainer

torch = pytest.importorskip("torch", reason="torch is not installed: batches are its")

from lightning.pytorch import LightningModule  # noqa: E402

from ptycho_torch import (  # noqa: E402
    GroupingConfig,
    PtychoDataModule,
    PtychoDataset,
    RawData,
    SimulatedScans,
    simulate_scan,
)
from ptycho_torch.data.errors import OptionError, OptionTypeError, ScanKeyError  # noqa: E402
from ptycho_torch.data.patches import reference_patches  # noqa: E402
from ptycho_torch.simulation.probes import make_probe, random_probe  # noqa: E402

N, FRAMES = 16, 25
FIELDS = (
    *("X", "Y", "coords_nominal", "global_offsets", "local_offsets", "nn_indices"),
    *("scan_id", "probe", "scale", "bad_pixels", "frame_photons"),
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*The number of training batches:UserWarning"),
]


def scans_of(**options: Any) -> SimulatedScans:
    return SimulatedScans(**{"n_scans": 3, "frames_per_scan": FRAMES, "N": N, **options})


def in_a_file(scan: RawData) -> RawData:
    """The scan with frames by a written-out Fourier sum of its object, probe and positions."""
    k = np.arange(N)
    kernel = np.exp(-2j * np.pi * np.outer(k - N // 2, k) / N) / np.sqrt(N)
    modes = np.asarray(scan.probeGuess).reshape(-1, 1, N, N).astype(np.complex128)
    patches = reference_patches(scan.objectGuess, scan.xcoords, scan.ycoords, N)
    waves = kernel @ (modes * patches) @ kernel.T
    frames = np.sqrt((np.abs(waves) ** 2).sum(axis=0)).astype(np.float32)
    x, y = scan.xcoords, scan.ycoords
    return RawData(
        x, y, x, y, frames, scan.probeGuess, scan.scan_index, objectGuess=scan.objectGuess
    )


def assert_equal_to_rounding(found: Any, wanted: Any) -> None:
    for name in FIELDS:
        mine, other = getattr(found, name), getattr(wanted, name)
        if other is None:
            assert mine is None, name
            continue
        assert (mine.shape, mine.dtype, mine.stride()) == (other.shape, other.dtype, other.stride())
        if name in ("X", "scale"):
            largest = other.abs().max().item()
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6 * largest, msg=name)
        else:
            assert torch.equal(mine, other), name


@pytest.mark.parametrize("gridsize", [1, 2, 3])
@pytest.mark.parametrize("n_modes", [1, 2])
def test_batches_are_those_of_the_same_scans_read_from_files(gridsize, n_modes):
    grouping = GroupingConfig(gridsize=gridsize, neighbor_count=9, seed=4)
    scans = scans_of(photons=None, n_modes=n_modes, grouping=grouping)
    files = PtychoDataset(
        [in_a_file(scans.scan(number)) for number in range(3)],
        grouping=grouping,
        patch_positions="scan",
    )
    assert len(scans) == len(files) == 3 * FRAMES
    indices = np.random.default_rng(0).permutation(len(files))[:40]
    assert_equal_to_rounding(scans.__getitems__(indices), files.__getitems__(indices))


def test_batches_of_one_scan_are_those_of_its_file():
    scans = scans_of(photons=None, n_scans=1)
    files = PtychoDataset(in_a_file(scans.scan(0)), patch_positions="scan")
    assert_equal_to_rounding(scans[:9], files[:9])


def test_batches_of_probes_with_different_numbers_of_modes_are_those_of_files():
    rng = np.random.default_rng(1)
    probes = [random_probe(N, modes, rng) for modes in (1, 3)]
    scans = scans_of(photons=None, probes=probes, n_scans=6)
    single = [in_a_file(scans.scan(number)) for number in range(6)]
    files = PtychoDataset(single, patch_positions="scan")
    indices = range(0, len(files), 5)
    assert_equal_to_rounding(scans.__getitems__(indices), files.__getitems__(indices))
    used = {int(scan.probeGuess.any(axis=(1, 2)).sum()) for scan in single}
    assert used == {1, 3}


def test_batches_with_noise_are_those_of_the_scans_that_it_gives():
    scans = scans_of(photons=500.0)
    files = PtychoDataset(list(scans.scans), patch_positions="scan")
    found, wanted = scans[:30], files[:30]
    assert torch.equal(found.Y, wanted.Y)
    # Files are scaled by what was counted, simulated scans by what was expected.
    torch.testing.assert_close(found.scale, wanted.scale, rtol=0.02, atol=0)
    amplitude, stored = (batch.X / batch.scale[:, None, None, None] for batch in (found, wanted))
    torch.testing.assert_close(amplitude, stored, rtol=1e-5, atol=1e-5)


def test_counts_have_the_statistics_of_photons():
    photons = 2_000.0
    counted = scans_of(photons=photons, n_scans=6).__getitems__(range(150))
    clean = scans_of(photons=None, n_scans=6).__getitems__(range(150))
    assert torch.equal(counted.Y, clean.Y)
    counts = (counted.X / counted.scale[:, None, None, None]).double() ** 2
    torch.testing.assert_close(counts, counts.round(), atol=2e-3, rtol=0)
    expected = (clean.X / clean.scale[:, None, None, None]).double() ** 2 * (photons / 1e5)
    assert counts.mean().item() == pytest.approx(expected.mean().item(), rel=5e-3)
    # Poisson: the variance of a count is its expectation.
    variance = ((counts - expected) ** 2).mean().item()
    assert variance == pytest.approx(expected.mean().item(), rel=0.05)


def test_a_frame_has_the_same_noise_in_every_group_of_an_epoch_and_other_noise_in_the_next():
    scans = scans_of(photons=100.0, n_scans=1, specimens="star", probes=make_probe(N))
    batch = scans.__getitems__(range(len(scans)))
    frames: dict[int, Any] = {}
    seen = 0
    for X, numbers in zip(batch.X, batch.nn_indices.tolist(), strict=True):
        for channel, number in enumerate(numbers):
            seen += number in frames
            assert torch.equal(frames.setdefault(number, X[..., channel]), X[..., channel])
    assert seen > 50
    pairs = itertools.combinations(frames.values(), 2)
    assert not any(torch.equal(one, other) for one, other in pairs)


def test_photons_are_drawn_for_every_scan_within_their_span():
    scans = scans_of(photons=(100.0, 1e4), n_scans=12)
    means = [(scan.diff3d**2).sum() / FRAMES for scan in scans.scans]
    assert 80 < min(means) < 400 and 2_500 < max(means) < 12_000


# -- the same numbers anywhere -------------------------------------------------------------------


def rows_of(batch: Any) -> list[tuple[bytes, ...]]:
    return [
        tuple(getattr(batch, name)[row].contiguous().numpy().tobytes() for name in FIELDS[:9])
        for row in range(len(batch))
    ]


def test_a_sample_is_the_same_in_any_batch_and_any_copy():
    scans = scans_of(photons=300.0, n_modes=2)
    numbers = [70, 3, 75 + 8, 9 * 75 + 3, 12, 3]
    together = rows_of(scans.__getitems__(numbers))
    single = [rows_of(scans_of(photons=300.0, n_modes=2).__getitems__([n]))[0] for n in numbers]
    assert together == single
    assert together[1] == together[5]
    assert len(set(together)) == 5


def test_epochs_go_on_for_ever_and_never_come_twice():
    scans = scans_of(photons=None)
    objects = [scans.scan(number, epoch).objectGuess for epoch in range(4) for number in range(3)]
    for one, other in itertools.combinations(objects, 2):
        assert not np.allclose(one, other, atol=0.05)
    far = scans.__getitems__([10**9])
    assert far.scan_id.item() == (10**9 // FRAMES) % 3
    with pytest.raises(IndexError, match="sample -1"):
        scans.__getitems__([-1])
    with pytest.raises(IndexError):
        scans[len(scans)]


def test_seeds_differ():
    assert rows_of(scans_of(seed=1)[:2]) != rows_of(scans_of(seed=2)[:2])


def test_scans_held_are_bounded_and_drawn_again_alike():
    scans = scans_of(photons=300.0)
    first = rows_of(scans[:2])
    for epoch in range(1, 5):
        scans.__getitems__(range(epoch * len(scans), (epoch + 1) * len(scans), FRAMES))
    assert scans._scan.cache_info().currsize == 6
    assert rows_of(scans[:2]) == first


class Watcher(LightningModule):
    """Writes down the bytes of every batch, and stops after ``stop_at`` steps."""

    def __init__(self, stop_at: int | None = None, checkpoint: Path | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.stop_at, self.checkpoint = stop_at, checkpoint
        self.seen: list[Any] = []
        self.judged: list[Any] = []

    def training_step(self, batch: Any, index: int) -> Any:
        self.seen.append((self.current_epoch, rows_of(batch)))
        return self.weight.sum() * batch.X.mean()

    def validation_step(self, batch: Any, index: int) -> None:
        self.judged.append(rows_of(batch))

    def on_train_batch_end(self, *args: Any) -> None:
        if len(self.seen) == self.stop_at:
            self.trainer.save_checkpoint(self.checkpoint)
            raise KeyboardInterrupt

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trained(folder: Path, model: Watcher, resume: Path | None = None, **options: Any) -> Watcher:
    scans = scans_of(photons=300.0, seed=options.pop("scan_seed", 0))
    data = PtychoDataModule(scans, **{"batch_size": 10, **options})
    trainer = quiet_trainer(folder, max_epochs=2, num_sanity_val_steps=0)
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
    return model


def test_a_trainer_sees_new_scans_every_epoch_and_judges_by_the_same_others(tmp_path):
    model = trained(tmp_path, Watcher())
    epochs = [{row for epoch, rows in model.seen if epoch == e for row in rows} for e in (0, 1)]
    assert [len(rows) for rows in epochs] == [75, 75]
    assert not epochs[0] & epochs[1]
    half = len(model.judged) // 2
    judged = {row for rows in model.judged for row in rows}
    assert model.judged[:half] == model.judged[half:] and len(judged) == FRAMES
    patches = {row[1] for rows in epochs for row in rows}
    assert not patches & {row[1] for row in judged}


@pytest.mark.parametrize(
    "options",
    [
        {"num_workers": 2},
        {"num_workers": 2, "assemble_on": "worker"},
        {"assemble_on": "device"},
    ],
)
@pytest.mark.slow
def test_workers_give_the_same_numbers(tmp_path, options):
    wanted = trained(tmp_path, Watcher())
    found = trained(tmp_path, Watcher(), **options)
    assert found.seen == wanted.seen and found.judged == wanted.judged


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [3, 8, 11])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_run_sees_what_it_would_have_seen(tmp_path, stop_at, num_workers):
    whole = trained(tmp_path, Watcher()).seen
    checkpoint = tmp_path / "stopped.ckpt"
    before = trained(tmp_path, Watcher(stop_at, checkpoint), num_workers=num_workers).seen
    after = trained(tmp_path, Watcher(), resume=checkpoint, num_workers=num_workers).seen
    assert before + after == whole


def test_a_checkpoint_of_other_simulated_scans_is_refused(tmp_path):
    checkpoint = tmp_path / "stopped.ckpt"
    trained(tmp_path, Watcher(2, checkpoint))
    with pytest.raises(OptionError, match="training groups of the data is 75 of other scans"):
        trained(tmp_path, Watcher(), resume=checkpoint, scan_seed=1)


def test_a_plain_loop_goes_on_by_set_epoch(tmp_path):
    data = PtychoDataModule(scans_of(photons=300.0), batch_size=10)
    data.setup("fit")
    loader, seen = data.train_dataloader(), []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        seen += [(epoch, rows_of(batch)) for batch in loader]
    assert seen == trained(tmp_path, Watcher()).seen


def test_without_shuffling_every_epoch_has_the_scans_of_the_first():
    data = PtychoDataModule(scans_of(), batch_size=75, shuffle=False, split="none")
    loader = data.train_dataloader()
    (first,) = loader
    loader.sampler.set_epoch(1)
    (second,) = loader
    assert rows_of(first) == rows_of(second) == rows_of(scans_of()[:])


def test_two_ranks_divide_the_samples_of_an_epoch():
    scans, rows = scans_of(), []
    from ptycho_torch.batches.sampler import EpochSampler

    for rank in range(2):
        sampler = EpochSampler(scans, num_replicas=2, rank=rank, seed=5)
        sampler.set_epoch(3)
        rows.append(set(sampler))
    assert not rows[0] & rows[1]
    assert rows[0] | rows[1] < set(range(3 * 75, 4 * 75)) and len(rows[0]) == 37


# -- what scans are drawn of ---------------------------------------------------------------------


def test_only_the_named_specimens_are_drawn():
    scans = scans_of(specimens=["star"], n_scans=2, photons=None)
    # The star's phase is the same for every seed, that of no other specimen is.
    phases = [np.angle(scan.objectGuess) for scan in scans.scans]
    np.testing.assert_allclose(phases[0], phases[1], atol=1e-5)
    assert not np.allclose(*(np.angle(scan.objectGuess) for scan in scans_of(n_scans=2).scans))


def same_up_to_a_factor(one: Any, other: Any) -> bool:
    overlap = abs(np.vdot(one, other)) / (np.linalg.norm(one) * np.linalg.norm(other))
    return bool(overlap > 1 - 1e-6)


def test_measured_probes_are_taken_from_arrays_scans_and_files(tmp_path):
    rng = np.random.default_rng(3)
    probes = [random_probe(N, 1, rng)[0].astype(np.complex64) for _ in range(3)]
    scan = simulate_scan(n_frames=4, N=N, probe=probes[1])
    path = simulate_scan(n_frames=4, N=N, probe=probes[2]).to_file(tmp_path / "scan.npz")
    np.save(tmp_path / "probe.npy", probes[0])
    for sources in ([probes[0], scan, path], [tmp_path / "probe.npy", scan, str(path)]):
        drawn = scans_of(probes=sources, n_scans=12)
        found = [drawn.scan(number).probeGuess for number in range(12)]
        which = [[same_up_to_a_factor(probe, p) for p in probes].index(True) for probe in found]
        assert set(which) == {0, 1, 2}
    mixed = scans_of(probes=["random", scan], n_scans=12)
    measured = [same_up_to_a_factor(s.probeGuess, probes[1]) for s in mixed.scans]
    assert 0 < sum(measured) < 12


def test_random_probes_differ_from_scan_to_scan():
    probes = [scan.probeGuess for scan in scans_of(n_scans=4).scans]
    pairs = itertools.combinations(probes, 2)
    assert not any(same_up_to_a_factor(one, other) for one, other in pairs)


def test_given_objects_are_cut_at_drawn_places(tmp_path):
    whole = simulate_scan(n_frames=4, N=N, object_size=90, specimen="texture")
    drawn = scans_of(objects=[whole.objectGuess, whole], n_scans=4)
    parts = [scan.objectGuess for scan in drawn.scans]
    windows = np.lib.stride_tricks.sliding_window_view(whole.objectGuess, parts[0].shape)
    for part in parts:
        assert (windows == part).all(axis=(2, 3)).sum() == 1
    assert len({part.tobytes() for part in parts}) == 4
    path = whole.to_file(tmp_path / "scan.npz")
    again = scans_of(objects=[str(path), path], n_scans=4)
    assert [scan.objectGuess.tobytes() for scan in again.scans] == [p.tobytes() for p in parts]


def test_pattern_and_frames_are_those_asked_for():
    scan = scans_of(pattern="raster", frames_per_scan=16).scan(0)
    assert len(scan) == 16 and np.array_equal(scan.xcoords, np.rint(scan.xcoords))


# -- in a data module ----------------------------------------------------------------------------


def test_the_data_modules_grouping_is_taken_and_another_is_refused():
    data = PtychoDataModule(scans_of(), grouping=GroupingConfig(gridsize=1))
    assert data.dataset("train")[:2].X.shape == (2, N, N, 1)
    own = scans_of(grouping=GroupingConfig(gridsize=3, neighbor_count=9))
    assert own[:2].X.shape == (2, N, N, 9)
    with pytest.raises(OptionError, match=r"grouping of SimulatedScans is .*gridsize=3"):
        PtychoDataModule(own).dataset("train")
    with pytest.raises(OptionError, match="N is 32; expected 16, that of SimulatedScans"):
        PtychoDataModule(scans_of(), N=32).dataset("train")


def test_validation_and_test_parts_are_scans_of_their_own():
    data = PtychoDataModule(scans_of(n_scans=10), val_fraction=0.2, test_fraction=0.1)
    parts = [data.dataset(stage) for stage in ("train", "val", "test")]
    assert [len(part) for part in parts] == [250, 50, 25]
    objects = [scan.objectGuess.tobytes() for part in parts for scan in part.scans]
    assert len(set(objects)) == 13
    assert "groups=250 train + 50 val + 25 test" in repr(data)


def test_simulated_scans_validate_a_run_on_files_and_files_one_on_simulated_scans():
    scan = simulate_scan(n_frames=40, N=N, seed=2)
    data = PtychoDataModule(scans_of(), val=scan, patch_positions="scan", batch_size=40)
    (judged,) = data.val_dataloader()
    assert torch.equal(judged.Y, PtychoDataset(scan, patch_positions="scan")[:].Y)
    other = PtychoDataModule(scan, val=scans_of(), patch_positions="scan", batch_size=75)
    (judged,) = other.val_dataloader()
    assert rows_of(judged) == rows_of(scans_of()[:])
    assert len(other.dataset("train")) == 40


def test_prediction_visits_the_scans_of_the_first_epoch_in_order():
    data = PtychoDataModule(scans_of(), batch_size=75)
    (batch,) = data.predict_dataloader()
    assert rows_of(batch) == rows_of(scans_of()[:])


def test_object_shape_and_initial_probe_are_those_of_the_first_epoch():
    scans = scans_of(n_modes=2)
    data = PtychoDataModule(scans)
    assert data.object_shape == scans.scan(0).objectGuess.shape
    assert np.array_equal(data.initial_probe.numpy(), scans.scan(0).probeGuess)


def test_a_part_is_a_dataset_of_the_first_epoch():
    scans = scans_of(photons=None)
    part = scans.subset(np.array([5, 60]))
    assert len(part) == 2
    torch.testing.assert_close(part[:].X, scans[[5, 60]].X)


def test_augmentation_is_for_simulated_scans_too():
    options = {"photons": None, "n_scans": 1}
    shaded = PtychoDataModule(
        scans_of(**options), augmentation={"beamstop_px": 2.0}, batch_size=25, shuffle=False
    )
    (batch,) = shaded.train_dataloader()
    assert (batch.X[:, N // 2, N // 2] == 0).all() and batch.bad_pixels.any()


def test_a_copy_as_for_another_process_leaves_what_was_drawn_behind():
    scans = scans_of(photons=300.0)
    wanted, shape = rows_of(scans[:2]), scans.scans[0].objectGuess.shape
    there = copy.deepcopy(scans)
    assert there._scan.cache_info().currsize == 0 and "scans" not in vars(there)
    assert rows_of(there[:2]) == wanted and there.scans[0].objectGuess.shape == shape


LARGE = np.ones((90, 90), np.complex64)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_scans": 0}, OptionError, "n_scans is 0"),
        ({"frames_per_scan": 0}, OptionError, "frames_per_scan is 0"),
        ({"frames_per_scan": 3}, OptionError, "the number of positions is 3; expected at least 4"),
        ({"N": 4}, OptionError, "N is 4"),
        ({"seed": None}, OptionTypeError, "seed is None"),
        ({"specimens": "stars"}, OptionError, "specimens is 'stars'; expected one of star"),
        ({"specimens": []}, OptionError, "specimens is empty"),
        ({"specimens": "grf", "objects": LARGE}, OptionError, "given beside objects; expected one"),
        ({"objects": LARGE[:20, :20]}, OptionError, "(20, 20); expected at least (21, 21)"),
        ({"objects": LARGE.real}, OptionTypeError, "object is float32"),
        ({"probes": np.ones((8, 8), complex)}, OptionError, "probe is of shape (8, 8)"),
        ({"probes": "nowhere.npz"}, FileNotFoundError, "nowhere.npz"),
        ({"photons": 0}, OptionError, "photons is 0"),
        ({"photons": (5.0, 2.0)}, OptionTypeError, "photons is (5.0, 2.0)"),
        ({"pattern": "spiral"}, OptionError, "'spiral'; expected one of jittered_raster"),
        ({"n_modes": 0}, OptionError, "n_modes is 0"),
        ({"grouping": GroupingConfig(n_subsample=10)}, OptionError, "grouping.n_subsample is 10"),
        ({"grouping": GroupingConfig(strategy="group_first")}, OptionError, "grouping.strategy"),
    ],
)  # fmt: skip
def test_bad_options_are_refused_in_one_line(options, error, message):
    with pytest.raises(error) as caught:
        scans_of(**options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_scan_without_an_object_is_refused_as_one():
    scan = simulate_scan(n_frames=4, N=N)
    x, y = scan.xcoords, scan.ycoords
    bare = RawData(x, y, x, y, scan.diff3d, scan.probeGuess, scan.scan_index)
    with pytest.raises(ScanKeyError, match="objectGuess is missing"):
        scans_of(objects=bare)


def test_an_order_of_blocks_is_refused():
    data = PtychoDataModule(scans_of(), order="blocks")
    with pytest.raises(OptionError, match="order is 'blocks'; expected 'samples'"):
        data.train_dataloader()
