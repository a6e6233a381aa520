"""Simulated scans on a GPU: made there, and the batches of the CPU."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: batches on a device")

from device_cases import BATCH, SIDE, device, fitted, on_host  # noqa: E402

from ptycho_torch import PtychoDataModule, SimulatedScans  # noqa: E402


def seen(place: str, photons: float | None, **options: Any) -> list[Any]:
    scans = SimulatedScans(n_scans=3, frames_per_scan=20, N=SIDE, photons=photons, n_modes=2)
    data = PtychoDataModule(scans, batch_size=BATCH, split="none", **options)
    return fitted(data, place, max_epochs=2).seen["train"]


@pytest.mark.parametrize(
    ("assemble_on", "workers"), [("auto", 0), ("device", 2), ("worker", 0), ("worker", 2)]
)
def test_simulated_batches_on_a_gpu_are_those_of_the_cpu(assemble_on: str, workers: int) -> None:
    found = seen("gpu", None, assemble_on=assemble_on, num_workers=workers)
    wanted = seen("cpu", None)
    assert {batch.X.device for batch in found} == {device()}
    assert len(found) == len(wanted) == 8
    for one, other in zip(map(on_host, found), map(on_host, wanted), strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert value.dtype == other[name].dtype, name
            largest = other[name].abs().max().item()
            torch.testing.assert_close(value, other[name], rtol=1e-5, atol=1e-6 * largest)


def test_counts_on_a_gpu_are_those_of_the_cpu_but_where_rounding_moves_one() -> None:
    moved = []
    for one, other in zip(seen("gpu", 1e3), seen("cpu", 1e3), strict=True):
        counts = [(batch.X / batch.scale.view(-1, 1, 1, 1)).cpu() ** 2 for batch in (one, other)]
        apart = (counts[0] - counts[1]).abs()
        assert apart.max() < 1.01
        moved.append((apart > 0.5).float().mean().item())
    assert max(moved) < 1e-3
