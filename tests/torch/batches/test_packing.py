"""Small tensors travel as one piece, and come out of a copy of it as they went in."""

from __future__ import annotations

import pickle

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: tensors are its")

from ptycho_torch.batches.packing import Pack  # noqa: E402


def test_tensors_come_out_of_a_copied_pack_as_they_went_in() -> None:
    tensors = {
        "odd": torch.arange(3, dtype=torch.float32),
        "none": torch.empty((0, 4), dtype=torch.float64),
        "strided": torch.arange(12, dtype=torch.int64).view(3, 4).t(),
        "large": torch.rand(2, 3, 4, dtype=torch.float32).permute(0, 2, 1),
        "last": torch.rand(2, 1, 3, dtype=torch.float64),
    }
    pack = Pack.of(tensors, large=("large", "absent"))
    copy = pickle.loads(pickle.dumps(pack))  # noqa: S301
    pack.small.zero_()
    found = copy.tensors()
    assert found.keys() == tensors.keys()
    assert len(list(copy.values())) == 2
    for name, tensor in found.items():
        assert tensor.dtype == tensors[name].dtype
        assert torch.equal(tensor, tensors[name])
        if name != "large":
            assert tensor.untyped_storage().data_ptr() == copy.small.data_ptr()
            assert not pack.tensors()[name].any()
