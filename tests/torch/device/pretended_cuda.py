"""Tensors that say cuda:i, hold their values on the CPU, and keep a record of what happened.

Owns what the stand-in does with an operation: values are the CPU's; mixing devices is refused;
copies, synchronisations and the streams they run on are recorded; memory made on one stream and
used on another without ``record_stream`` is refused, since a GPU may give it away meanwhile. Shows
no races within a stream and no speed.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import FrameType
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten
DEVICES = 2
OUTSIDE = "outside"
ONCE = ("batches/tables.py", "batches/frame_bank.py", "batches/patch_windows.py")
MEMORY = 80 * 2**30


@dataclass(frozen=True)
class Copy:
    """Values that went from the host to a device."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    nbytes: int
    pinned: bool
    non_blocking: bool
    stream: int
    where: str

    @property
    def of_batches(self) -> bool:
        """The package sent it, and not once for all batches."""
        return self.where != OUTSIDE and not self.where.startswith(ONCE)


COPIES: list[Copy] = []
SYNCHRONISATIONS: list[str] = []
LAUNCHES: list[str] = []
HELD: dict[int, list[int]] = {}
"""Bytes of a storage on a device, and how many tensors hold it, by its address."""
ON_STREAMS: dict[int, set[int]] = {}
"""Streams on which a storage may be used, by its address."""

_SYNCHRONISING = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten._unique2.default,
    aten.unique_dim.default,
}
_COPYING = {aten.copy_.default, aten._to_copy.default}
_INDEXING = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}


class OnDevice(torch.Tensor):
    """A tensor that says it is on a device; ``host`` has its values."""

    host: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host: torch.Tensor, device: torch.device) -> OnDevice:
        made = torch.Tensor._make_wrapper_subclass(
            cls, host.size(), strides=host.stride(), storage_offset=host.storage_offset(),
            dtype=host.dtype, layout=host.layout, device=device,
        )  # fmt: skip
        made.host = host
        storage = host.untyped_storage()
        HELD.setdefault(_address(host), [storage.nbytes(), 0])[1] += 1
        weakref.finalize(made, _dropped, _address(host))
        return made

    def __init__(self, host: torch.Tensor, device: torch.device) -> None:
        pass

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"OnDevice({self.host!r}, {self.device})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RuntimeError("a tensor on a device is pickled")

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        copied = OnDevice(self.host.clone(), self.device).requires_grad_(self.requires_grad)
        memo[id(self)] = copied
        return copied


class _Everywhere(TorchDispatchMode):
    """Sees operations on the CPU too: copies to a device start as such."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


def _dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
    target = kwargs.get("device")
    target = None if target is None else _numbered(torch.device(target))
    if there:
        _check(func, tensors, there)
    if func is aten.record_stream.default:
        ON_STREAMS.setdefault(_address(args[0].host), set()).add(args[1].stream_id)
        return None
    _record(func, args, kwargs, there, target)
    on_cuda = target is not None and target.type == "cuda"
    device = target if on_cuda else there[0].device if there and target is None else None
    options = dict(kwargs)
    if target is not None:
        options["device"] = torch.device("cpu") if on_cuda else target
    args, options = tree_map_only(OnDevice, lambda tensor: tensor.host, (args, options))
    result = func(*args, **options)
    if device is None:
        return result
    LAUNCHES.append(func.overloadpacket.__name__)
    hosts = {id(tensor.host): tensor for tensor in there}
    known = {_address(tensor.host) for tensor in there}
    stream = torch.accelerator.current_stream(device).stream_id

    def wrapped(host: torch.Tensor) -> torch.Tensor:
        if id(host) in hosts:
            return hosts[id(host)]
        if _address(host) not in known:
            ON_STREAMS[_address(host)] = {stream}
        return OnDevice(host, device)

    return tree_map_only(torch.Tensor, wrapped, result)


def _check(func: Any, tensors: list[torch.Tensor], there: list[OnDevice]) -> None:
    devices = {tensor.device for tensor in there}
    if len(devices) > 1:
        raise RuntimeError(f"{func}: tensors on {devices}")
    if func is not aten.record_stream.default:
        stream = torch.accelerator.current_stream(there[0].device).stream_id
        for tensor in there:
            allowed = ON_STREAMS.get(_address(tensor.host), {stream})
            if tensor.host.numel() and stream not in allowed:
                raise RuntimeError(f"{func}: memory of stream {allowed} is used on {stream}")
    if func in _COPYING or func in _INDEXING:
        return
    for tensor in tensors:
        if not isinstance(tensor, OnDevice) and tensor.dim():
            shape = tuple(tensor.shape)
            raise RuntimeError(f"{func}: a tensor of shape {shape} is on the CPU")


def _record(
    func: Any, args: Any, kwargs: Any, there: list[OnDevice], target: torch.device | None
) -> None:
    if func in _SYNCHRONISING and there:
        SYNCHRONISATIONS.append(f"{func} {_where()}")
    if func in _INDEXING and there:
        for index in tree_leaves(args[1]):
            if isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8):
                SYNCHRONISATIONS.append(f"{func} by a mask {_where()}")
            elif isinstance(index, torch.Tensor) and not isinstance(index, OnDevice):
                _copied(index, False, args[0].device)
    if func is aten.copy_.default and there:
        to, source = args[:2]
        non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        if not isinstance(source, OnDevice):
            _copied(source, non_blocking, to.device)
        elif not isinstance(to, OnDevice):
            SYNCHRONISATIONS.append(f"copy to the host {_where()}")
    if func is aten._to_copy.default and target is not None:
        if target.type == "cuda" and not isinstance(args[0], OnDevice):
            _copied(args[0], kwargs.get("non_blocking", False), target)
        elif target.type == "cpu" and isinstance(args[0], OnDevice):
            SYNCHRONISATIONS.append(f"copy to the host {_where()}")


def _copied(source: torch.Tensor, non_blocking: bool, device: torch.device) -> None:
    stream = torch.accelerator.current_stream(device).stream_id
    # Values broadcast by a stride of 0 travel as often as they are repeated.
    nbytes = source.numel() * source.element_size()
    pinned = source.is_pinned()
    copy = Copy(
        tuple(source.shape), source.dtype, nbytes, pinned, non_blocking, stream, _where()
    )  # fmt: skip
    COPIES.append(copy)


def _dropped(address: int) -> None:
    HELD[address][1] -= 1
    if not HELD[address][1]:
        del HELD[address]


def _memory(device: Any = None) -> tuple[int, int]:
    """Bytes that are free on all devices together, and those of one."""
    return MEMORY - sum(nbytes for nbytes, _ in list(HELD.values())), MEMORY


def _address(host: torch.Tensor) -> int:
    return host.untyped_storage()._cdata


def _numbered(device: torch.device) -> torch.device:
    return torch.device("cuda", 0) if str(device) == "cuda" else device


def _where() -> str:
    """The package's line that is at work."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        _, ours, room = frame.f_code.co_filename.rpartition("/ptycho_torch/")
        if ours:
            return f"{room}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return OUTSIDE


def waits_of_streams() -> int:
    """How often a stream has waited for an event of another."""
    return int(ctypes.CDLL(None).stand_in_events_waited_for())


def synchronisations() -> list[str]:
    """Each moment the package made the host wait for a device since the record began."""
    ours = [moment for moment in SYNCHRONISATIONS if not moment.endswith(OUTSIDE)]
    explicit = int(ctypes.CDLL(None).stand_in_synchronisations())
    return ours + ["a stream or an event"] * (explicit - _EXPLICIT_BEFORE[0])


_EXPLICIT_BEFORE = [0]


def forget() -> None:
    """Start the record anew."""
    for record in (COPIES, SYNCHRONISATIONS, LAUNCHES):
        record.clear()
    _EXPLICIT_BEFORE[0] = int(ctypes.CDLL(None).stand_in_synchronisations())


def _in_threads_too(submit: Callable[..., Any]) -> Callable[..., Any]:
    """A mode of torch holds in its thread only; a thread of the package needs its own."""

    def submitted(pool: Any, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        def work() -> Any:
            with _Everywhere():
                return function(*args, **options)

        return submit(pool, work)

    return submitted


@contextlib.contextmanager
def pretended_cuda() -> Iterator[None]:
    """Let torch and Lightning find the devices."""
    import lightning.fabric.accelerators.cuda as of_lightning

    def set_device(device: Any) -> None:
        number = device if isinstance(device, int) else torch.device(device).index or 0
        torch.accelerator.set_device_index(number)

    answers: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: DEVICES,
        "set_device": set_device,
        "current_device": torch.accelerator.current_device_index,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_name": lambda device=None: "a pretended GPU",
        "empty_cache": lambda: None,
        "synchronize": torch.accelerator.synchronize,
        "memory_stats": lambda device=None: {},
        "mem_get_info": _memory,
        "manual_seed_all": lambda seed: None,
    }
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        for name, answer in (("num_cuda_devices", DEVICES), ("is_cuda_available", True)):
            stack.enter_context(mock.patch.object(of_lightning, name, lambda answer=answer: answer))
        submit = _in_threads_too(ThreadPoolExecutor.submit)
        stack.enter_context(mock.patch.object(ThreadPoolExecutor, "submit", submit))
        # Modules move their parameters by exchanging tensors, whose kinds differ here.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        torch._C._set_only_lift_cpu_tensors(True)
        forget()
        ON_STREAMS.clear()
        stack.enter_context(_Everywhere())
        try:
            yield
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(False)
            torch._C._set_only_lift_cpu_tensors(False)
