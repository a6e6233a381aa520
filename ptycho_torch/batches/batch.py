"""PtychoBatch: what a model gets.

Owns the names, shapes and dtypes of a batch. Knows nothing of files, scans or loaders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partialmethod
from typing import Any

import torch
from tensordict import TensorClass, TensorDict
from torch import Tensor

from ptycho_torch.batches.representations import BATCH
from ptycho_torch.batches.sending import require_float64
from ptycho_torch.data.errors import OptionError


class PtychoBatch(TensorClass):
    """A batch of B groups of C diffraction frames of N x N pixels.

    ``batch.to(device, non_blocking=True)``, ``batch.pin_memory()``, slicing and ``torch.cat`` work
    as for any tensordict class.

    Attributes
    ----------
    X
        Scaled amplitudes, float32, (B, N, N, C): a channels-last view of memory laid out as
        (B, C, N, N).
    coords_nominal
        Nominal positions relative to the group's centre, centre - position, float32, (B, 1, 2, C),
        (x, y) on axis 2, object pixels. ``coords`` and ``coords_true`` are the same tensor.
    global_offsets
        Group centres, mean of the measured positions, float64, (B, 1, 2, 1), object pixels.
    local_offsets
        Centre - measured position, float64, (B, 1, 2, C), object pixels.
    nn_indices
        Frame indices within the scan, int64, (B, C). With ``n_subsample`` they count within the
        frames kept; the scan's ``sample_indices`` lead back to the file.
    scan_id
        Which of the dataset's scans, int64, (B,).
    probe
        Probe modes, complex64, (B, P, N, N). With one scan: one copy per batch, broadcast over the
        groups, so writing to it in place needs ``batch.probe = batch.probe.clone()`` first.
    scale
        X = scale * amplitude, float32, (B,).
    bad_pixels
        Detector pixels that are bad in a frame of the group, True = bad, bool, (B, N, N), where X
        is 0; None where no scan has any. With one scan broadcast over the groups, as the probe.
    frame_photons
        Photons that met the object in each frame, float32, (B, C), or None; a monitor's readings
        are scaled to the probe's photons in the scan's mean.
    Y
        Ground-truth patches, complex64, (B, N, N, C), or None.
    """

    X: Tensor
    coords_nominal: Tensor
    global_offsets: Tensor
    local_offsets: Tensor
    nn_indices: Tensor
    scan_id: Tensor
    probe: Tensor
    scale: Tensor
    Y: Tensor | None = None
    bad_pixels: Tensor | None = None
    frame_photons: Tensor | None = None

    @property
    def coords(self) -> Tensor:
        """``coords_nominal``."""
        return self.coords_nominal

    @property
    def coords_true(self) -> Tensor:
        """``coords_nominal``: the reference gives both names to the same array."""
        return self.coords_nominal

    @property
    def Y_I(self) -> Tensor:
        """abs(Y), float32, (B, N, N, C); ones where there is no ground truth."""
        return torch.ones_like(self.X) if self.Y is None else self.Y.abs()

    @property
    def Y_phi(self) -> Tensor:
        """angle(Y) in radians, float32, (B, N, N, C); zeros where there is no ground truth."""
        return torch.zeros_like(self.X) if self.Y is None else self.Y.angle()

    @property
    def positions(self) -> Tensor:
        """Measured positions (x, y) of every frame, float64, (B, C, 2), object pixels."""
        return (self.global_offsets - self.local_offsets).squeeze(-3).transpose(-1, -2)

    def to(self, *args: Any, **kwargs: Any) -> PtychoBatch:
        """Copy to a device, as a tensordict does; a dtype is for X, and its complex one for Y.

        Positions, indices, probe and scale keep their dtypes. bfloat16 has no complex type, so Y
        keeps its own. Of another tensor or batch, its device and its (X's) dtype count. ``type``,
        ``half``, ``float64`` and what else is named after a dtype are this, too.

        Raises
        ------
        OptionError
            The dtype is not a floating one.
        """
        args = (*args, *(kwargs.pop(name) for name in ("other",) if name in kwargs))
        if args and isinstance(args[0], (Tensor, PtychoBatch)):
            other = args[0].X if isinstance(args[0], PtychoBatch) else args[0]
            args = (other.device, other.dtype, *args[1:])
        dtype = kwargs.pop("dtype", None)
        dtypes = [arg for arg in args if isinstance(arg, torch.dtype)]
        others = [arg for arg in args if not isinstance(arg, torch.dtype | bool | None)]
        flags = [arg for arg in args if isinstance(arg, bool)]
        kwargs.update(zip(("non_blocking", "copy"), flags, strict=False))
        device = kwargs.get("device", others[0] if others else None)
        if isinstance(device, str | torch.device):
            require_float64(device)
            if torch.device(device).type != "cuda":
                # Elsewhere nothing waits for such a copy, and its values are read too early.
                kwargs.pop("non_blocking", None)
        moved = self
        if others or kwargs:
            moved = self._moved(lambda content: content.to(*others, **kwargs))
        dtype = dtypes[0] if dtypes else dtype
        return moved if dtype is None else _cast(moved, dtype)

    type = to

    def pin_memory(self, *args: Any, **kwargs: Any) -> PtychoBatch:
        """Copy to page-locked memory, as a tensordict does."""
        return self._moved(lambda content: content.pin_memory(*args, **kwargs))

    def _moved(self, move: Callable[[TensorDict], TensorDict]) -> PtychoBatch:
        """Move all tensors; what is broadcast over the groups, as the probe, travels once."""
        content: TensorDict = self._tensordict  # type: ignore[attr-defined]
        once = {name: tensor[:1] for name, tensor in content.items() if _is_broadcast(tensor)}
        if not once:
            return type(self).from_tensordict(move(content))
        moved = move(TensorDict({"others": content.exclude(*once), **once}, []))
        others = moved["others"]
        for name in once:
            others[name] = moved[name].expand(content[name].shape)
        return type(self).from_tensordict(others)

    def __reduce__(self) -> tuple[Any, ...]:
        # Only tensors and a function that torch.load may call: weights_only works.
        return _batch_of, (dict(self.items()), list(self.batch_size))

    def __repr__(self) -> str:
        return BATCH.text(self)

    def _repr_html_(self) -> str:
        return BATCH.html(self)

    def channels_first(self) -> Tensor:
        """X as (B, C, N, N), contiguous, without a copy."""
        return self.X.movedim(-1, -3)

    def as_lineage(self, nphotons: float | None = None) -> tuple[TensorDict, Tensor, Tensor]:
        """The batch as PtychoPINN's own torch loader hands it to a model.

        Parameters
        ----------
        nphotons
            Photons per frame, for ``physics_scaling_constant``; None: frames and probe are both in
            sqrt(counts), and the constant is 1.

        Returns
        -------
        tensor_dict
            ``images`` = ``observed_images``: amplitude, float32, (B, C, N, N);
            ``coords_relative``: centre - measured position, float32, (B, C, 1, 2);
            ``coords_global``: measured positions, float64, (B, C, 1, 2), and ``coords_center``,
            (B, 1, 1, 2), (x, y) on the last axis, object pixels; ``nn_indices`` (B, C);
            ``experiment_id`` (B,), the scan; ``rms_scaling_constant``: images times it are X;
            ``physics_scaling_constant``: images times it hold ``nphotons`` in the mean; both
            float32, (B, 1, 1, 1). With ground truth ``label_amp``, ``label_phase``: float32,
            (B, C, N, N).
        probe
            complex64, (B, C, P, N, N), broadcast over the frames of a group.
        scaling
            ``rms_scaling_constant`` again.
        """
        rms = self.scale.view(-1, 1, 1, 1)
        images = self.channels_first() / rms
        centred, centre = (
            offsets.movedim(-1, 1) for offsets in (self.local_offsets, self.global_offsets)
        )
        physics = (
            torch.ones_like(rms)
            if nphotons is None
            else rms * (2 * nphotons**0.5 / self.X.shape[1])
        )
        content = {
            "images": images,
            "observed_images": images,
            "coords_relative": centred.float(),
            "coords_global": centre - centred,
            "coords_center": centre,
            "nn_indices": self.nn_indices,
            "experiment_id": self.scan_id,
            "rms_scaling_constant": rms,
            "physics_scaling_constant": physics,
        }
        if self.Y is not None:
            content["label_amp"] = self.Y_I.movedim(-1, 1)
            content["label_phase"] = self.Y_phi.movedim(-1, 1)
        probe = self.probe[:, None].expand(-1, self.X.shape[-1], -1, -1, -1)
        return TensorDict(content, batch_size=[len(rms)]), probe, rms


def _is_broadcast(tensor: Any) -> bool:
    return (
        isinstance(tensor, Tensor) and tensor.ndim > 0 and len(tensor) > 1 and not tensor.stride(0)
    )


def _cast(batch: PtychoBatch, dtype: torch.dtype) -> PtychoBatch:
    if not dtype.is_floating_point:
        action = "Cast a field: batch.X.to(...)"
        raise OptionError("dtype of a batch", dtype, "a floating one", action=action)
    content = dict(batch.items())
    content["X"] = batch.X.to(dtype)
    if batch.Y is not None and dtype != torch.bfloat16:
        content["Y"] = batch.Y.to(dtype.to_complex())
    return _batch_of(content, list(batch.batch_size))


def _batch_of(content: dict[str, Tensor], batch_size: list[int]) -> PtychoBatch:
    return PtychoBatch.from_tensordict(TensorDict(content, batch_size=batch_size))


def _cast_X_and_Y_only() -> None:
    for name, dtype in vars(torch).items():
        if isinstance(dtype, torch.dtype) and hasattr(PtychoBatch, name):
            setattr(PtychoBatch, name, partialmethod(PtychoBatch.to, dtype))
    # A Trainer's true precision (bf16-true) casts the fields of a dataclass but those without init.
    for field in fields(PtychoBatch):
        field.init = field.name == "X"


_cast_X_and_Y_only()
# Lightning looks for the batch size of what it logs in the values of a mapping. In anything else it
# goes on to iterate, down to single groups, which cannot be iterated.
Mapping.register(PtychoBatch)
torch.serialization.add_safe_globals([_batch_of])
