"""What the tests of batches share: the devices they run on."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    """Each kind of device that this machine has."""
    torch = pytest.importorskip("torch", reason="torch is not installed: devices are its")
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return str(request.param)
