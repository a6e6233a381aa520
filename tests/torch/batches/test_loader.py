"""The loader builds one batch ahead, keeps the order, and leaves no thread behind."""

from __future__ import annotations

import copy
import gc
import math
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: loaders need it")

from torch.utils.data import Dataset  # noqa: E402

from ptycho_torch import PtychoDataModule, simulate_scan  # noqa: E402
from ptycho_torch.batches.build_ahead import AHEAD  # noqa: E402
from ptycho_torch.batches.loader import GroupLoader  # noqa: E402


class Counted(Dataset[Any]):
    """Batches that are lists of indices; remembers how many were built."""

    def __init__(self, size: int, fail_at: int | None = None) -> None:
        self.size = size
        self.fail_at = fail_at
        self.built = 0

    def __len__(self) -> int:
        return self.size

    def __getitems__(self, indices: list[int]) -> list[int]:
        if self.fail_at in indices:
            raise ValueError(f"frame {self.fail_at} is bad")
        self.built += 1
        return indices


def loader(dataset: Counted, **options: Any) -> GroupLoader:
    return GroupLoader(dataset, batch_size=4, **options)


@pytest.fixture
def computing_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every loop counts as one that computes between batches."""
    monkeypatch.setattr("ptycho_torch.batches.build_ahead.WORTH_A_THREAD_S", -math.inf)


@pytest.fixture
def idle_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every loop counts as one that computes nothing, however long a busy machine takes."""
    monkeypatch.setattr("ptycho_torch.batches.build_ahead.WORTH_A_THREAD_S", math.inf)


def threads() -> int:
    return sum(thread.name.startswith("ptycho-torch-loader") for thread in threading.enumerate())


def wait_for(condition: Any, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


@pytest.mark.usefixtures("computing_loop")
@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_come_in_order_and_whole(workers: int) -> None:
    batches = loader(Counted(10), num_workers=workers, persistent_workers=workers > 0)
    for _ in range(2):
        assert list(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert wait_for(lambda: threads() == 0)


@pytest.mark.usefixtures("computing_loop")
def test_items_are_finished_by_the_thread() -> None:
    seen: list[str] = []

    def finish(item: list[int]) -> int:
        seen.append(threading.current_thread().name)
        return sum(item)

    batches = loader(Counted(8), finish=lambda items: map(finish, items))
    assert list(batches) == [6, 22]
    assert set(seen) == {"ptycho-torch-loader_0"}


@pytest.mark.usefixtures("computing_loop")
def test_no_more_is_built_than_one_waiting_and_one_in_hand() -> None:
    dataset = Counted(400)
    iterator = iter(loader(dataset))
    next(iterator)
    assert wait_for(lambda: dataset.built == 2 + AHEAD)
    time.sleep(0.2)
    assert dataset.built == 2 + AHEAD


@pytest.mark.usefixtures("computing_loop")
def test_an_error_reaches_the_loop_at_its_place() -> None:
    iterator = iter(loader(Counted(12, fail_at=5)))
    assert next(iterator) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="frame 5 is bad"):
        next(iterator)
    with pytest.raises(StopIteration):
        next(iterator)
    assert wait_for(lambda: threads() == 0)


@pytest.mark.usefixtures("computing_loop")
def test_a_loop_left_in_the_middle_leaves_no_thread() -> None:
    batches = loader(Counted(400))
    for _ in range(5):
        for _batch in batches:
            break
    gc.collect()
    assert wait_for(lambda: threads() == 0)


@pytest.mark.usefixtures("computing_loop")
def test_persistent_workers_serve_a_new_epoch_after_one_that_was_left() -> None:
    batches = loader(Counted(40), num_workers=2, persistent_workers=True)
    for _batch in batches:
        break
    assert [index for batch in batches for index in batch] == list(range(40))


@pytest.mark.usefixtures("computing_loop")
def test_the_order_in_force_at_the_first_request_counts() -> None:
    order = [0, 1]
    batches = GroupLoader(Counted(2), batch_size=2, sampler=order)
    iterator = iter(batches)
    order.reverse()
    assert next(iterator) == [1, 0]


@pytest.mark.usefixtures("idle_loop")
def test_a_loop_that_computes_nothing_gets_its_batches_without_a_thread() -> None:
    dataset = Counted(40)
    batches = loader(dataset, finish=lambda items: map(sum, items))
    iterator = iter(batches)
    assert [next(iterator), next(iterator)] == [6, 22]
    time.sleep(0.1)
    assert dataset.built == 2


def test_a_loop_that_computes_gets_the_rest_of_its_batches_from_a_thread() -> None:
    dataset = Counted(40)
    iterator = iter(loader(dataset))
    first = next(iterator)
    time.sleep(0.05)
    assert [first, next(iterator)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert wait_for(lambda: dataset.built == 3 + AHEAD)
    assert [index for batch in iterator for index in batch] == list(range(8, 40))


@pytest.mark.usefixtures("idle_loop")
def test_an_error_ends_the_epoch_without_a_thread_too() -> None:
    iterator = iter(loader(Counted(12, fail_at=5)))
    assert next(iterator) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="frame 5 is bad"):
        next(iterator)
    with pytest.raises(StopIteration):
        next(iterator)


LEAVES_EARLY = """
import sys, time
import torch
from torch.utils.data import Dataset
from ptycho_torch.batches.loader import GroupLoader

class Heavy(Dataset):
    def __len__(self):
        return 1000
    def __getitems__(self, indices):
        # Outside the interpreter's lock for long, as a gather of frames is.
        rows = torch.zeros(2000, 1, dtype=torch.long)
        return torch.nn.functional.embedding_bag(rows, torch.ones(1, 4096), mode="sum")

batches = iter(GroupLoader(Heavy(), batch_size=4))
next(batches)
time.sleep(0.01)
next(batches)
sys.exit(7)
"""


@pytest.mark.slow
def test_a_program_may_end_while_its_next_batch_is_being_built() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LEAVES_EARLY], check=False, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (7, "")


def test_the_thread_computes_on_one_core_and_no_other_thread_does_because_of_it() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        batches = loader(Counted(40), finish=lambda items: (torch.get_num_threads() for _ in items))
        iterator = iter(batches)
        assert next(iterator) == 2
        time.sleep(0.01)
        assert next(iterator) == 1
        with ThreadPoolExecutor(1) as another:
            assert another.submit(torch.get_num_threads).result() == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", ["idle_loop", "computing_loop"])
def test_iterations_side_by_side_are_each_whole(kind: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(kind)
    batches = loader(Counted(40))
    assert [first == second for first, second in zip(batches, batches, strict=True)] == 10 * [True]
    assert sum(1 for _ in batches for _ in batches) == 100


@pytest.mark.usefixtures("computing_loop")
def test_an_iteration_whose_workers_another_took_says_so() -> None:
    batches = loader(Counted(40), num_workers=2, persistent_workers=True)
    first = iter(batches)
    next(first)
    second = iter(batches)
    with pytest.raises(RuntimeError, match="another iteration over this loader has started"):
        next(first)
    assert [index for batch in second for index in batch] == list(range(40))
    with pytest.raises(StopIteration):
        next(second)


def test_a_loader_can_be_copied_after_use() -> None:
    batches = loader(Counted(8))
    list(batches)
    assert list(copy.deepcopy(batches)) == list(batches)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("threaded", [True, False])
def test_a_child_forked_in_the_middle_of_an_iteration_says_so(
    tmp_path: Path, threaded: bool
) -> None:
    scan = simulate_scan(n_frames=40, N=8, object_size=60, seed=3)
    data = PtychoDataModule(scan, batch_size=4, ground_truth="none", split="none")
    batches = data.train_dataloader()
    items = iter(batches)
    for _ in range(3):
        next(items)
        time.sleep(0.01 * threaded)
    child = os.fork()
    if child == 0:
        said = "nothing"
        try:
            next(items)
        except RuntimeError as error:
            said = str(error)
        own = len(list(batches))
        (tmp_path / "said").write_text(f"{own} {said}", encoding="utf-8")
        os._exit(0)
    for _ in range(500):
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            break
        time.sleep(0.02)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert (tmp_path / "said").read_text(encoding="utf-8").startswith("10 this iteration belongs")
    assert len(list(items)) == 7


class ThreadNames(Counted):
    """Says in which thread of its process a batch is made."""

    def __getitems__(self, indices: list[int]) -> Any:
        return threading.current_thread().name


@pytest.mark.usefixtures("computing_loop")
def test_workers_start_in_the_thread_of_the_loop() -> None:
    """One that the building thread forks takes it for its own, and fails when it ends."""
    batches = GroupLoader(
        ThreadNames(8), batch_size=4, num_workers=1, multiprocessing_context="fork"
    )
    assert list(batches) == ["MainThread"] * 2
