"""Memory returns to the pool once its batch is gone, and not a moment earlier."""

from __future__ import annotations

import gc
import pickle

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: buffers need it")

from ptycho_torch.batches import buffers  # noqa: E402
from ptycho_torch.batches.buffers import KEPT, BufferPool  # noqa: E402


def test_memory_of_a_dropped_tensor_is_used_again() -> None:
    pool = BufferPool()
    first = pool.take((4, 8))
    address = first.data_ptr()
    assert first.shape == (4, 8)
    assert first.dtype == torch.float32
    del first
    gc.collect()
    assert pool.take((8, 4)).data_ptr() == address


def test_memory_that_a_view_or_an_array_holds_is_left_alone() -> None:
    pool = BufferPool()
    tensor = pool.take((4, 8))
    tensor.fill_(3)
    view, array = tensor.view(8, 4)[2:].permute(1, 0), tensor.numpy()
    del tensor
    for _ in range(3):
        pool.take((4, 8)).fill_(0)
    assert (view == 3).all()
    del view
    pool.take((4, 8)).fill_(0)
    assert (array == 3).all()


def test_no_more_than_a_few_buffers_are_kept() -> None:
    pool = BufferPool()
    tensors = [pool.take((16,)) for _ in range(KEPT + 5)]
    addresses = {tensor.data_ptr() for tensor in tensors}
    assert len(addresses) == KEPT + 5
    del tensors
    gc.collect()
    assert sum(len(free) for free in pool._free.values()) == KEPT


def test_nothing_travels_to_another_process() -> None:
    pool = BufferPool()
    pool.take((1000, 1000))
    gc.collect()
    data = pickle.dumps(pool)
    assert len(data) < 200
    assert pickle.loads(data).take((2,)).shape == (2,)  # noqa: S301


def test_free_buffers_of_many_sizes_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "KEPT_BYTES", 4 * 10_000)
    pool = BufferPool()
    for size in range(1000, 1200):
        pool.take((size,))
        gc.collect(0)
    held = [buffer for free in pool._free.values() for buffer in free]
    assert 4 * 8_000 < sum(buffer.nbytes for buffer in held) <= 4 * 10_000
    assert {buffer.size for buffer in held} == set(range(1192, 1200))
