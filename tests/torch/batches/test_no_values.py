"""Assembly of tensors without values: what a GPU would wait for or need memory for shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: assembly needs it")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from ptycho_torch import PtychoDataset, RawData, simulate_scan  # noqa: E402
from ptycho_torch.batches.assembly import assemble, gather_scaled  # noqa: E402
from ptycho_torch.batches.patch_windows import cut_patches, stack_objects  # noqa: E402


@pytest.mark.parametrize("scans", [1, 3])
def test_no_value_decides_how_a_batch_is_assembled(scans: int) -> None:
    sides = range(60, 60 + 4 * scans, 4)
    dataset = PtychoDataset(
        [simulate_scan(n_frames=30, N=8, object_size=side, seed=side) for side in sides],
        patch_positions="scan",
    )
    selection, tables = dataset.select(range(0, len(dataset), 7)), dataset.frameless_tables
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = {name: mode.from_tensor(value) for name, value in selection._tensors().items()}
        batch = assemble(type(selection)(**fakes), tables)
    assert batch.X.shape == (len(selection), 8, 8, 4)
    assert batch.Y is not None
    assert batch.Y.shape == batch.X.shape


@pytest.mark.parametrize("truth", ["none", "object", "file"])
@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("scans", [1, 3])
def test_a_batch_without_values_has_the_shapes_and_dtypes_of_one_with_them(
    scans: int, resident: bool, truth: Any
) -> None:
    several = [simulate_scan(n_frames=30, N=8, object_size=60, seed=seed) for seed in range(scans)]
    if truth == "file":
        several = [with_patches(scan) for scan in several]
    dataset = PtychoDataset(several, ground_truth=truth, patch_positions="scan")
    groups, tables = range(0, len(dataset), 7), dataset.frameless_tables.to("meta")
    if resident:
        tables = replace(tables, frames=dataset.bank.copy_to(torch.device("meta")))
    batch = assemble(dataset.select(groups, gather=not resident).to("meta"), tables)
    wanted = dataset.__getitems__(groups)
    assert batch.keys() == wanted.keys()
    for name, value in wanted.items():
        found = batch.get(name)
        assert (found.shape, found.dtype) == (value.shape, value.dtype), name
        assert found.device.type == "meta", name
        assert found.stride() == value.stride(), name


def with_patches(scan: RawData) -> RawData:
    Y = np.ones(scan.diff3d.shape, np.complex64)
    return RawData(
        scan.xcoords, scan.ycoords, scan.xcoords_start, scan.ycoords_start, scan.diff3d,
        scan.probeGuess, scan.scan_index, Y=Y,
    )  # fmt: skip


class Largest(TorchDispatchMode):
    """Keeps the bytes of what operations make anew."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {leaf.untyped_storage()._cdata for leaf in tensors_in((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for leaf in tensors_in(result):
            if leaf.untyped_storage()._cdata not in known:
                self.made.append(leaf.untyped_storage().nbytes())
        return result


def tensors_in(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint16])
def test_scratch_memory_on_a_device_does_not_grow_with_the_batch(dtype: torch.dtype) -> None:
    B, N, most = 1024, 256, 40 * 2**20
    meta: dict[str, Any] = {"device": "meta"}
    stack = stack_objects({0: torch.empty((600, 600), dtype=torch.complex64)}, N).to("meta")
    scan_id = torch.zeros(B, dtype=torch.int64, **meta)
    frames = torch.empty((5000, N, N), dtype=dtype, **meta)
    inverse = torch.zeros((B, 4), dtype=torch.int64, **meta)
    with Largest() as patches:
        cut_patches((stack,), scan_id, torch.zeros((B, 4, 2), **meta), N)
    with Largest() as gathered:
        gather_scaled(frames, inverse, torch.zeros(B, **meta), counts=True)
    for made, result in ((patches.made, 8 * B * 4 * N**2), (gathered.made, 4 * B * 4 * N**2)):
        assert made.count(result) == 1
        assert max(size for size in made if size != result) < most


class Gathered(TorchDispatchMode):
    """Keeps the dtypes that frames are gathered in."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.index_select.out:
            self.dtypes.add(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_unsigned_counts_are_gathered_as_signed_ones_which_every_gpu_can(bits: int) -> None:
    most = 2**bits - 1
    values = torch.from_numpy(np.array([[[0]], [[1]], [[most]]], dtype=f"u{bits // 8}"))
    with Gathered() as gathered:
        X = gather_scaled(values, torch.tensor([[2, 0], [1, 2]]), torch.ones(2), counts=False)
    assert gathered.dtypes == {getattr(torch, f"int{bits}")}
    assert X.flatten().tolist() == [float(np.float32(most)), 0, 1, float(np.float32(most))]
