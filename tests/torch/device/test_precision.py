"""The Trainer's precision reaches X and Y, and no position."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: dtypes are its")

from device_cases import data_of, fitted, on_host  # noqa: E402


@pytest.mark.parametrize("place", ["cpu", "gpu"])
@pytest.mark.parametrize("assemble_on", ["auto", "device", "worker"])
@pytest.mark.parametrize(
    ("precision", "real", "complex_"),
    [
        ("bf16-true", torch.bfloat16, torch.complex64),
        ("16-true", torch.float16, torch.complex32),
        ("64-true", torch.float64, torch.complex128),
    ],
    ids=["bf16", "16", "64"],
)
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_precision_changes_X_and_Y_and_leaves_positions_alone(
    precision: str,
    real: torch.dtype,
    complex_: torch.dtype,
    assemble_on: str,
    place: str,
    tmp_path: Path,
) -> None:
    wanted = fitted(data_of(tmp_path), "cpu").seen["train"]
    data = data_of(tmp_path, assemble_on=assemble_on)
    found = fitted(data, place, precision=precision).seen["train"]
    assert len(found) == len(wanted)
    for one, other in zip(map(on_host, found), map(on_host, wanted), strict=True):
        for name, value in one.items():
            if name == "X":
                assert torch.equal(value, other["X"].to(real))
            elif name == "Y":
                assert value.dtype == complex_
                assert torch.equal(*map(torch.view_as_real, (value, other["Y"].to(complex_))))
            else:
                assert torch.equal(value, other[name]), name
                assert value.dtype == other[name].dtype, name
