"""PtychoDataContainerTorch: grouped arrays under the attribute names of the TensorFlow container.

Owns the container, its split and the reference's ``load``. Attributes are torch tensors where torch
is installed and NumPy arrays where it is not; the container computes each on first use. Knows no
files but the one it writes on request; nothing else in the package imports it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_torch.config_bridge import check_number
from ptycho_torch.data.contract import check_array, spec
from ptycho_torch.data.errors import OptionError, OptionTypeError, ScanError
from ptycho_torch.data.files.atomic_write import atomic_write
from ptycho_torch.data.raw_data import RawData

DEFAULT_NPHOTONS = 1e9
"""Photons per frame where the caller does not say, as in the reference."""

_ROWS_PER_BLOCK = 64
_SOURCES = ("X_full", "coords_relative", "coords_offsets", "nn_indices", "coords_start_relative")
_SAVED = tuple(
    "X Y Y_I Y_phi coords_nominal coords_true coords_relative global_offsets local_offsets "
    "nn_indices norm_Y_I probe".split()
)

AnyArray = NDArray[Any]


class PtychoDataContainerTorch:
    """The grouped data of one call, under the names of the reference's container.

    Construction checks shapes and keeps references: X is a view of ``X_full``; Y_I, Y_phi, Y and
    norm_Y_I wait for their first use.

    Parameters
    ----------
    grouped_data
        What ``generate_grouped_data`` returned: B groups of C frames. ``X_full``,
        ``coords_relative``, ``coords_offsets`` and ``nn_indices`` are needed; without
        ``coords_start_relative`` the start positions are the measured ones, and without ``Y`` there
        is no ground truth.
    probe
        complex, shape (N, N), (N, N, 1), or (P, N, N) for incoherent modes, N that of the frames.
    nphotons
        Photons per frame, for ``norm_Y_I``.

    Raises
    ------
    ScanError
        A key is missing, a shape disagrees with the others, the probe's included, or Y is
        real-valued.
    OptionError
        ``nphotons`` is not a positive number.
    """

    def __init__(
        self,
        grouped_data: Mapping[str, Any],
        probe: ArrayLike,
        *,
        nphotons: float = DEFAULT_NPHOTONS,
    ) -> None:
        if not isinstance(grouped_data, Mapping):
            raise OptionTypeError(
                "grouped_data", type(grouped_data).__name__, "the dict of generate_grouped_data"
            )
        self._arrays = _checked_arrays(grouped_data)
        self._probe = _checked_probe(probe, self._arrays["X_full"].shape[1])
        self._nphotons = check_number("nphotons", nphotons, positive=True)

    @classmethod
    def from_raw_data_without_pc(
        cls,
        xcoords: AnyArray,
        ycoords: AnyArray,
        diff3d: AnyArray,
        probeGuess: AnyArray,
        scan_index: AnyArray | None,
        objectGuess: AnyArray | None = None,
        N: int | None = None,
        K: int = 7,
        nsamples: int = 1,
        *,
        gridsize: int = 1,
        nphotons: float = DEFAULT_NPHOTONS,
        **grouping_options: Any,
    ) -> PtychoDataContainerTorch:
        """Group a scan whose positions nobody corrected, and hold the result.

        Parameters
        ----------
        xcoords, ycoords, diff3d, probeGuess, scan_index, objectGuess
            As for :class:`~ptycho_torch.data.raw_data.RawData`.
        N
            Pixels along a frame's side; None takes it from the frames.
        K, nsamples, gridsize, **grouping_options
            As for ``RawData.generate_grouped_data``.
        nphotons
            Photons per frame.

        Raises
        ------
        OptionError, OptionTypeError, ScanError
            As from RawData, from its grouping, and from the container.
        """
        raw = RawData.from_coords_without_pc(
            xcoords, ycoords, diff3d, probeGuess, scan_index, objectGuess
        )
        grouped = raw.generate_grouped_data(
            raw.N if N is None else N, K, nsamples, gridsize=gridsize, **grouping_options
        )
        return cls(grouped, raw.probeGuess, nphotons=nphotons)

    def __len__(self) -> int:
        return len(self._arrays["nn_indices"])

    def __repr__(self) -> str:
        groups, side, _, channels = self._arrays["X_full"].shape
        truth = "no ground truth" if self._arrays["Y"] is None else "ground truth"
        return (
            f"PtychoDataContainerTorch({groups} groups of {channels} frames, "
            f"{side} x {side} px, {truth})"
        )

    @overload
    def split(
        self, train_frac: float, which: None = None
    ) -> tuple[PtychoDataContainerTorch, PtychoDataContainerTorch]: ...
    @overload
    def split(self, train_frac: float, which: str) -> PtychoDataContainerTorch: ...
    def split(
        self, train_frac: float, which: str | None = None
    ) -> PtychoDataContainerTorch | tuple[PtychoDataContainerTorch, PtychoDataContainerTorch]:
        """The first ``int(B * train_frac)`` groups (train), the rest (test), or both.

        The cut goes through every attribute. The reference leaves global_offsets, local_offsets and
        nn_indices whole, so row i of X and row i of an offset may belong to different groups.

        Parameters
        ----------
        train_frac
            Share of the groups that train, in [0, 1].
        which
            ``"train"``, ``"test"``, or None for the pair.

        Raises
        ------
        OptionError
            ``which`` is another word, ``train_frac`` is out of range, or the half asked for is
            empty.
        """
        if which is None:
            return self.split(train_frac, "train"), self.split(train_frac, "test")
        if which not in ("train", "test"):
            raise OptionError("which", repr(which), "'train' or 'test'")
        fraction = check_number("train_frac", train_frac)
        if fraction > 1:
            raise OptionError("train_frac", train_frac, "a number in [0, 1]")
        middle = int(len(self) * fraction)
        rows = slice(middle) if which == "train" else slice(middle, None)
        if not len(self._arrays["nn_indices"][rows]):
            raise OptionError(
                f"the {which} half is empty: train_frac={train_frac} of {len(self)} groups; "
                "expected at least one group. Choose another train_frac or more groups."
            )
        half = {k: None if v is None else v[rows] for k, v in self._arrays.items()}
        return type(self)(half, self._probe, nphotons=self._nphotons)

    def to_npz(self, path: str | Path) -> Path:
        """Write all attributes but ``YY_full`` by name, uncompressed; whole or not at all."""
        target = Path(path)
        with atomic_write(target) as handle:
            arrays: dict[str, Any] = {name: np.asarray(getattr(self, name)) for name in _SAVED}
            np.savez(handle, **arrays)
        return target

    @cached_property
    def X(self) -> Any:
        """Scaled amplitudes, float32, (B, N, N, C)."""
        return _tensor(self._arrays["X_full"])

    @cached_property
    def Y(self) -> Any:
        """Ground-truth patches, complex64, (B, N, N, C); ones where there is no ground truth."""
        return _tensor(self._patches())

    @cached_property
    def Y_I(self) -> Any:
        """Modulus of Y, float32."""
        if self._arrays["Y"] is None:
            return _tensor(np.ones(self._arrays["X_full"].shape, np.float32))
        return _tensor(np.abs(self._patches()))

    @cached_property
    def Y_phi(self) -> Any:
        """Phase of Y in rad, float32."""
        if self._arrays["Y"] is None:
            return _tensor(np.zeros(self._arrays["X_full"].shape, np.float32))
        return _tensor(np.angle(self._patches()))

    @cached_property
    def coords_nominal(self) -> Any:
        """Start positions relative to the group, float32, (B, 1, 2, C), object px.

        As in the TensorFlow loader; PtychoPINN's own torch container has the measured ones here.
        """
        return _tensor(self._arrays["coords_start_relative"].astype(np.float32, copy=False))

    @property
    def coords_true(self) -> Any:
        """The same as ``coords_nominal``, as in the reference."""
        return self.coords_nominal

    @property
    def coords(self) -> Any:
        """The same as ``coords_nominal``, as in the reference."""
        return self.coords_nominal

    @cached_property
    def coords_relative(self) -> Any:
        """Measured positions relative to the group, float32, (B, 1, 2, C), object px."""
        return _tensor(self._arrays["coords_relative"].astype(np.float32, copy=False))

    @property
    def global_offsets(self) -> Any:
        """Centres of the groups, (B, 1, 2, 1), object px."""
        return _tensor(self._arrays["coords_offsets"])

    @property
    def local_offsets(self) -> Any:
        """Centre minus position, (B, 1, 2, C), object px."""
        return _tensor(self._arrays["coords_relative"])

    @property
    def nn_indices(self) -> Any:
        """Frame indices, (B, C)."""
        return _tensor(self._arrays["nn_indices"])

    @cached_property
    def norm_Y_I(self) -> Any:
        """sqrt(nphotons / mean energy of the frames of X), float32 scalar."""
        frames = self._arrays["X_full"]
        energy = 0.0
        for start in range(0, len(frames), _ROWS_PER_BLOCK):
            block = frames[start : start + _ROWS_PER_BLOCK].astype(np.float64)
            energy += float(np.einsum("bijc,bijc->", block, block))
        if not energy > 0:
            raise ScanError("X_full", "zero in every frame", "some signal")
        mean = energy / (len(frames) * frames.shape[-1])
        return _tensor(np.asarray(np.sqrt(self._nphotons / mean), np.float32))

    @property
    def probe(self) -> Any:
        """The probe, complex64, (N, N) or (P, N, N)."""
        return _tensor(self._probe)

    @property
    def probeGuess(self) -> Any:
        """The same as ``probe``."""
        return self.probe

    @property
    def YY_full(self) -> None:
        """None: the reference has the name, and nothing behind it."""

    def _patches(self) -> AnyArray:
        patches = self._arrays["Y"]
        if patches is None:
            return np.ones(self._arrays["X_full"].shape, np.complex64)
        return np.asarray(patches.astype(np.complex64, copy=False))


def load(
    cb: Callable[[], Any],
    probeGuess: ArrayLike,
    which: str | None,
    create_split: bool,
    *,
    nphotons: float = DEFAULT_NPHOTONS,
) -> PtychoDataContainerTorch:
    """The container of the grouped dict that ``cb`` returns, as ``ptycho.loader.load`` makes it.

    Parameters
    ----------
    cb
        Returns the grouped dict; with ``create_split``, the pair (grouped dict, train_frac).
    probeGuess, nphotons
        As for :class:`PtychoDataContainerTorch`.
    which
        ``"train"`` or ``"test"``; counts only with ``create_split``.
    create_split
        Cut the groups by ``train_frac`` and keep the half that ``which`` names.

    Raises
    ------
    OptionError, OptionTypeError
        ``cb`` returns something else, or ``which`` is another word.
    ScanError
        As for :class:`PtychoDataContainerTorch`.
    """
    grouped = cb()
    if not create_split:
        return PtychoDataContainerTorch(grouped, probeGuess, nphotons=nphotons)
    if which not in ("train", "test"):
        raise OptionError("which", repr(which), "'train' or 'test'")
    if not (isinstance(grouped, tuple) and len(grouped) == 2):
        raise OptionTypeError(
            "the result of cb",
            type(grouped).__name__,
            "(grouped dict, train_frac), because create_split is True",
        )
    return PtychoDataContainerTorch(grouped[0], probeGuess, nphotons=nphotons).split(
        grouped[1], which
    )


def _checked_arrays(grouped: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of a container, without a copy, once their shapes agree."""
    sizes: dict[str, int] = {"1": 1, "xy": 2}
    arrays: dict[str, Any] = {}
    grouped = {"coords_start_relative": grouped.get("coords_relative"), "Y": None, **grouped}
    for name in _SOURCES:
        if name not in grouped:
            raise ScanError(f"grouped_data[{name!r}]", "missing", "an array")
        family = "integer" if name == "nn_indices" else "floating"
        wanted = dataclasses.replace(spec("grouped", name), dtype=family)
        arrays[name] = check_array(np.asarray(grouped[name]), wanted, sizes)
    arrays["Y"] = None if grouped["Y"] is None else np.asarray(grouped["Y"])
    if arrays["Y"] is not None:
        shape, dtype = arrays["Y"].shape, arrays["Y"].dtype
        if dtype.kind != "c":
            raise ScanError("Y dtype", dtype, "complex", action="Pass amplitude * exp(i * phase)")
        if len(shape) == 4 and shape[-1] != sizes["C"]:
            raise ScanError(
                f"Y has {shape[-1]} channels and X has {sizes['C']}; expected the same number."
            )
        if shape != arrays["X_full"].shape:
            raise ScanError("Y shape", shape, f"{arrays['X_full'].shape}, as X")
    return arrays


def _checked_probe(probe: ArrayLike, side: int) -> AnyArray:
    """The probe as complex64, (N, N) or (P, N, N), of the frames' side."""
    array = np.asarray(probe)
    if array.shape == (side, side, 1):
        array = array[..., 0]
    fits = array.ndim in (2, 3) and array.shape[-2:] == (side, side) and len(array) > 0
    if array.dtype.kind != "c" or not fits:
        found, square = f"{array.dtype} {array.shape}", f"{side}, {side}"
        expected = f"complex, ({square}) or (P, {square}), as the frames"
        raise ScanError("probe", found, expected)
    return np.asarray(array.astype(np.complex64, copy=False))


def _tensor(array: AnyArray) -> Any:
    """A torch tensor on the array's own memory where torch is installed, else the array."""
    try:
        import torch
    except ImportError:
        return array
    # Writing to a tensor on read-only memory is undefined behaviour.
    return torch.from_numpy(array if array.flags.writeable else array.copy())
