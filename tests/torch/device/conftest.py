"""Tests of what happens on a GPU: they run on one, or else in the process with the stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import stand_in


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder but those of fake tensors costs a process that imports torch."""
    for item in items:
        if item.path.parent == stand_in.SOURCE.parent and item.get_closest_marker("slow") is None:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Any:
    """Run a test in the process with the stand-in where there is no GPU."""
    torch = pytest.importorskip("torch", reason="torch is not installed: devices are its")
    if torch.cuda.is_available():
        return None
    if reason := stand_in.missing():
        pytest.skip(reason)
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    failure = stand_in.run_test(pyfuncitem.path, pyfuncitem.originalname, arguments)
    if failure:
        pytest.fail(failure, pytrace=False)
    return True


@pytest.fixture(scope="session", autouse=True)
def stand_in_ends() -> Iterator[None]:
    """End the process with the stand-in when nothing needs it any more."""
    yield
    stand_in.stop()
