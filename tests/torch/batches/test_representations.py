"""What batches, datasets and data modules say of themselves, without making anything."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: batches")

from ptycho_torch import (  # noqa: E402
    Geometry,
    GroupingConfig,
    PtychoBatch,
    PtychoDataModule,
    PtychoDataset,
    RawData,
    SimulatedScans,
    simulate_scan,
)
from ptycho_torch.batches.group_index import GroupIndex  # noqa: E402


@pytest.fixture(name="scan", scope="module")
def fixture_scan() -> RawData:
    return simulate_scan(n_frames=100, N=16, object_size=80, seed=3)


def dataset_of(scan: RawData) -> PtychoDataset:
    return PtychoDataset(scan, patch_positions="scan", cache="off")


def line(thing: object, name: str) -> str:
    (found,) = [row for row in repr(thing).splitlines()[1:] if row.split()[0] == name]
    return found


def test_a_batch_names_every_field_with_its_axes_and_dtype(scan: RawData) -> None:
    batch = dataset_of(scan)[:3]
    title, *rows = repr(batch).splitlines()
    assert title == "PtychoBatch(3 groups of 4 frames of 16 x 16, on cpu)"
    assert [row.split()[0] for row in rows] == [
        *("X", "coords_nominal", "global_offsets", "local_offsets", "nn_indices", "scan_id"),
        *("probe", "scale", "Y", "bad_pixels", "frame_photons"),
    ]
    for name, tensor in batch.items():
        if tensor is not None:
            said = line(batch, name)
            assert str(tensor.dtype).partition(".")[2] in said
            shape = re.findall(r"(\d+)[,)]", said[said.index("(") : said.index(")") + 1])
            assert [int(size) for size in shape] == list(tensor.shape), name
    assert "(B=3, N=16, N=16, C=4) float32" in line(batch, "X")
    assert line(batch, "bad_pixels").endswith("none")


def test_a_group_a_batch_in_half_precision_and_one_without_memory_are_shown(scan: RawData) -> None:
    batch = dataset_of(scan)[:3]
    assert repr(batch[0]).startswith("PtychoBatch(one group of 4 frames of 16 x 16, on cpu)")
    assert "bfloat16" in line(batch.bfloat16(), "X")
    assert "<table>" in batch.bfloat16()._repr_html_()
    nowhere = batch.to("meta")
    assert "on meta" in repr(nowhere) and "<img" not in nowhere._repr_html_()
    assert len(repr(batch).splitlines()) <= 12


def test_a_dataset_is_shown_before_it_is_grouped_and_stays_so(
    scan: RawData, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = dataset_of(scan)
    monkeypatch.setattr(GroupIndex, "of_scans", lambda *_, **__: pytest.fail("grouped"))
    assert repr(dataset).startswith("PtychoDataset(1 scan, N=16, gridsize=2, not grouped yet)")
    assert "not grouped yet" in dataset._repr_html_()
    assert "(M=100, N=16, N=16) float32, amplitude" in line(dataset, "frames")
    assert "X (N=16, N=16, C=4)" in line(dataset, "sample")
    assert "objectGuess, patches cut at 'scan' positions" in line(dataset, "truth")
    assert "photons" in line(dataset, "probe")
    assert len(repr(dataset).splitlines()) <= 12
    monkeypatch.undo()
    groups = len(dataset)
    assert f"gridsize=2, {groups} groups)" in repr(dataset)


def test_a_dataset_of_many_scans_names_three_and_counts_what_is_known(scan: RawData) -> None:
    known = RawData.sharing(scan, geometry=Geometry(object_pixel_m=1e-8))
    dataset = PtychoDataset([known, scan, known, scan], cache="off")
    assert line(dataset, "scans").endswith("memory, memory, memory, and 1 more")
    assert "(M=400, N=16, N=16)" in line(dataset, "frames")
    assert line(dataset, "geometry").endswith("of 2 of 4 scans")
    assert line(dataset, "photons").endswith("of 0 of 4 scans")
    assert len(repr(dataset).splitlines()) <= 12


def test_a_data_module_opens_nothing_to_be_shown(tmp_path: Path, scan: RawData) -> None:
    missing = PtychoDataModule(str(tmp_path / "missing.npz"), N=16, batch_size=5)
    assert "X (B=5, N=16, N=16, C=4)" in line(missing, "batch")
    assert "<table>" in missing._repr_html_() and "<img" not in missing._repr_html_()
    data = PtychoDataModule(
        scan, grouping=GroupingConfig(gridsize=1), split="frames", cache="off", seed=7
    )
    assert "N, N, C=1) float32" in line(data, "batch")
    assert "shuffled samples, seed 7" in line(data, "order")
    assert "\n  frames" not in repr(data)
    data.setup("fit")
    assert "(M=90, N=16, N=16)" in line(data, "frames") and "N=16" in line(data, "batch")
    assert len(repr(data).splitlines()) <= 12


def test_simulated_scans_draw_none_to_be_shown() -> None:
    scans = SimulatedScans(n_scans=2, frames_per_scan=25, N=16)
    assert repr(scans).startswith("SimulatedScans(2 scans of 25 frames, N=16")
    assert f"{len(scans) // 2} of each scan" in line(scans, "groups")
    assert "<table>" in scans._repr_html_()
    assert "scans" not in vars(scans) and "bank" not in vars(scans)


def test_half_built_objects_are_shown() -> None:
    for kind in (PtychoBatch, PtychoDataset, PtychoDataModule, SimulatedScans):
        half = object.__new__(kind)
        assert repr(half).splitlines()[0] == f"{kind.__name__}: half built or damaged"
        assert "half built" in half._repr_html_()


@pytest.mark.parametrize("kind", ["scan", "dataset", "batch", "module"])
def test_pictures_are_there_and_small(scan: RawData, kind: str) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pictures")
    noise = np.random.default_rng(0).lognormal(3, 3, (40, 96, 96)).astype(np.float32)
    scan = RawData.from_coords_without_pc(
        np.arange(40.0) % 7 * 9, np.arange(40.0) // 7 * 9, noise, np.ones((96, 96), np.complex64)
    )
    data = PtychoDataModule(scan, split="none", cache="off")
    data.setup("fit")
    dataset = dataset_of(scan)
    shown = {"scan": scan, "dataset": dataset, "batch": dataset[:2], "module": data}[kind]
    html = shown._repr_html_()
    assert "<img" in html and len(html) <= 100_000
