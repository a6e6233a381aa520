"""Batches on their way to the loop: copied to a GPU beside its step, untouched by Lightning.

Owns the stream of copies, the wait for them, and which devices can hold a batch. Knows no scans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from ptycho_torch.data.errors import OptionError

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class Parcel:
    """A batch on its way, closed: Lightning converts the numbers of whatever it can look into.

    ``parcel.to(device)`` is the batch.

    Parameters
    ----------
    content
        A batch, finished or before its assembly.
    finish
        Makes the loop's batch of the content, where that is.
    arrival
        When the copy to a GPU has ended; None: there is no copy.
    """

    def __init__(
        self, content: Any, finish: Callable[[Any], Any], arrival: torch.Event | None = None
    ) -> None:
        self._content = content
        self._finish = finish
        self._arrival = arrival

    def opened(self) -> Any:
        """The batch; what the current stream does from here on waits for its copy."""
        if self._arrival is not None:
            tensors = list(self._content.values())
            stream = torch.accelerator.current_stream(tensors[0].device)
            stream.wait_event(self._arrival)
            for tensor in tensors:
                # Its memory belongs to the stream of copies, which may not reuse it too early.
                tensor.record_stream(stream)
        return self._finish(self._content)

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """The batch, copied as its own ``to`` does."""
        return self.opened().to(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"a batch on its way to a Trainer's step has no {name}: take batch.to(device)"
        )


def sent(
    batches: Iterator[Any], finish: Callable[[Any], Any], device: torch.device
) -> Iterator[Parcel]:
    """Close batch after batch into a parcel, and start the copy where the device is a GPU."""
    if device.type != "cuda":
        for batch in batches:
            yield Parcel(batch, finish)
        return
    stream = torch.Stream(device)
    for batch in batches:
        with stream:
            there = batch.to(device, non_blocking=True)
            arrival = stream.record_event()
        yield Parcel(there, finish, arrival)


def dtype_of_X(trainer: Trainer | None) -> torch.dtype:
    """What a Trainer's precision makes of X."""
    X = torch.empty((), dtype=torch.float32)
    if trainer is not None:
        X = trainer.precision_plugin.convert_input(X)
    return X.dtype


def require_float64(device: torch.device | str) -> None:
    """Refuse a device that cannot hold positions."""
    if torch.device(device).type == "mps":
        raise OptionError(
            "device", "mps", "one with float64, which positions are", action="Use accelerator=cpu"
        )
