"""Small tensors share one buffer, and come out of a copy of it as they went in."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: tensors are its")

from ptycho_torch.batches.packing import packed, unpacked  # noqa: E402


def test_tensors_come_out_of_a_copy_of_the_buffer_as_they_went_in() -> None:
    tensors = {
        "odd": torch.arange(3, dtype=torch.float32),
        "none": torch.empty((0, 4), dtype=torch.float64),
        "strided": torch.arange(12, dtype=torch.int64).view(3, 4).t(),
        "last": torch.rand(2, 1, 3, dtype=torch.float64),
    }
    buffer, views = packed(tensors)
    copy = buffer.clone()
    buffer.zero_()
    found = unpacked(copy, views)
    assert found.keys() == tensors.keys()
    for name, tensor in found.items():
        assert tensor.dtype == tensors[name].dtype
        assert torch.equal(tensor, tensors[name])
        assert tensor.untyped_storage().data_ptr() == copy.untyped_storage().data_ptr()
        assert not views[name].any()
