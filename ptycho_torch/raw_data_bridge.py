"""RawDataTorch: RawData behind the arguments of the TensorFlow pipeline's torch adapter.

Owns the source of the defaults of ``generate_grouped_data``, a configuration dataclass or the
caller's flat legacy dict, and the choice between RawData and an installed
``ptycho.raw_data.RawData``. Knows no formula; nothing else in the package imports it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.config import PatchPositions, check_choice, path_and_seed
from ptycho_torch.data.errors import MissingDependencyError, OptionError
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.data.representation import scan_title
from ptycho_torch.legacy_params import (
    Configuration,
    grouping_defaults,
    to_legacy_params,
    update_legacy_dict,
)

Backend = Literal["native", "legacy"]
AnyArray = NDArray[Any]

_ARRAYS = tuple(
    "xcoords ycoords xcoords_start ycoords_start diff3d probeGuess scan_index objectGuess Y "
    "norm_Y_I metadata".split()
)


class RawDataTorch:
    """A scan whose grouping takes its defaults from a configuration.

    Parameters
    ----------
    xcoords, ycoords
        Probe positions, shape (M,), object pixels.
    diff3d
        Diffraction amplitudes, shape (M, N, N).
    probeGuess
        complex, shape (N, N).
    scan_index
        Integer, shape (M,).
    objectGuess
        Whole object, shape (H, W), optional.
    config
        A :class:`~ptycho_torch.config_bridge.TrainingConfig`, or any dataclass with its field
        names. Gives the defaults of :meth:`generate_grouped_data`. Its ``n_subsample`` counts where
        a file is loaded; these frames are all kept.
    backend
        What groups: ``"native"``, RawData; ``"legacy"``, an installed ``ptycho.raw_data.RawData``.
    params
        The caller's flat legacy dict, which ``config`` updates in place. Without a ``config`` it
        gives the defaults.

    Attributes
    ----------
    raw
        The :class:`~ptycho_torch.data.raw_data.RawData` in use; it answers for attributes that are
        not here, and takes the label ``sample_indices``.
    params
        The dict given, or None.

    Raises
    ------
    MissingDependencyError
        ``backend="legacy"`` without an installed ``ptycho``.
    OptionError, OptionTypeError, ScanError
        As from the configuration and from RawData.
    """

    def __init__(
        self,
        xcoords: AnyArray,
        ycoords: AnyArray,
        diff3d: AnyArray,
        probeGuess: AnyArray,
        scan_index: AnyArray | None,
        objectGuess: AnyArray | None = None,
        config: Configuration | None = None,
        backend: Backend = "native",
        params: MutableMapping[str, Any] | None = None,
    ) -> None:
        raw = RawData.from_coords_without_pc(
            xcoords, ycoords, diff3d, probeGuess, scan_index, objectGuess
        )
        self._take(raw, config, backend, params)

    @classmethod
    def from_acquisition(
        cls,
        record: Any,
        config: Configuration | None = None,
        backend: Backend = "native",
        params: MutableMapping[str, Any] | None = None,
    ) -> RawDataTorch:
        """The scan of a record: a mapping, or an object with attributes, by the names of RawData.

        Start positions, Y, metadata and ``sample_indices`` are taken along where the record has
        them. A RawData is taken as it is, its frames where they lie.

        Raises
        ------
        OptionError, OptionTypeError, ScanError
            As from the constructor; a required array is missing.
        """
        raw, made = record, object.__new__(cls)
        if not isinstance(record, RawData):
            get = record.get if isinstance(record, Mapping) else partial(_attribute, record)
            given: dict[str, Any] = {name: get(name) for name in _ARRAYS}
            for name in ("xcoords", "ycoords"):
                if given[f"{name}_start"] is None:
                    given[f"{name}_start"] = given[name]
            raw = RawData(**given)
            if get("sample_indices") is not None:
                raw.sample_indices = get("sample_indices")
        made._take(raw, config, backend, params)
        return made

    def to_acquisition(self) -> dict[str, Any]:
        """The scan as a plain record: arrays and metadata by name, None where there is none."""
        return {name: getattr(self.raw, name) for name in (*_ARRAYS, "sample_indices")}

    def _take(
        self,
        raw: RawData,
        config: Configuration | None,
        backend: Backend,
        params: MutableMapping[str, Any] | None,
    ) -> None:
        check_choice("backend", backend, Backend)
        self.raw = raw
        self.backend = backend
        self.params = params
        settings = dict(params or {}) if config is None else to_legacy_params(config)
        if config is not None and params is not None:
            update_legacy_dict(params, config)
        self._defaults = grouping_defaults(settings)
        self._defaults.setdefault("N", self.raw.N)
        if config is not None:
            # A configuration without n_groups asks for all the frames, as in inference.
            per_seed = settings.get("groups_per_seed", 1)
            self._defaults.setdefault("nsamples", self.raw.n_frames * per_seed)
            if per_seed > 1:
                self._defaults.setdefault("enable_oversampling", True)
        if backend == "legacy":
            self._legacy = _legacy_raw_data(self.raw)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "raw":
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
        return getattr(self.raw, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "sample_indices":
            self.raw.sample_indices = value
        else:
            super().__setattr__(name, value)

    def __len__(self) -> int:
        return len(self.raw)

    def __repr__(self) -> str:
        return f"RawDataTorch({scan_title(self.raw)}, backend={self.backend!r})"

    def generate_grouped_data(
        self,
        N: int | None = None,
        K: int | None = None,
        nsamples: int | None = None,
        dataset_path: str | Path | int | None = None,
        seed: int | None = None,
        sequential_sampling: bool | None = None,
        gridsize: int | None = None,
        enable_oversampling: bool | None = None,
        neighbor_pool_size: int | None = None,
        patch_positions: PatchPositions = "reference",
    ) -> dict[str, Any]:
        """As :meth:`RawData.generate_grouped_data`; None takes the configuration's value.

        Without a configuration, ``N`` is the frames' side and RawData gives the other defaults.
        The result carries the scan's ``sample_indices``, where it has them.

        Raises
        ------
        OptionError, OptionTypeError
            As from RawData; and ``patch_positions="scan"`` with the legacy backend, which has none.
        """
        dataset_path, seed = path_and_seed(dataset_path, seed)
        given = {
            "N": N,
            "K": K,
            "nsamples": nsamples,
            "sequential_sampling": sequential_sampling,
            "gridsize": gridsize,
            "enable_oversampling": enable_oversampling,
            "neighbor_pool_size": neighbor_pool_size,
        }
        options = self._defaults | {k: v for k, v in given.items() if v is not None}
        if self.backend == "native":
            return self.raw.generate_grouped_data(
                **options, dataset_path=dataset_path, seed=seed, patch_positions=patch_positions
            )
        if patch_positions != "reference":
            expected = "'reference', the only one that backend='legacy' has"
            action = "Use backend='native'"
            raise OptionError("patch_positions", repr(patch_positions), expected, action=action)
        return self._group_by_legacy(options, dataset_path, seed)

    def _group_by_legacy(
        self, options: dict[str, Any], dataset_path: str | Path | None, seed: int | None
    ) -> dict[str, Any]:
        with _global_stream_kept():
            # The reference draws from NumPy's global stream, which gets its state back afterwards:
            # without a seed of its own, every call would give the same groups.
            grouped = self._legacy.generate_grouped_data(
                **options,
                dataset_path=None if dataset_path is None else str(dataset_path),
                seed=secrets.randbits(32) if seed is None else seed,
            )
        result = dict(grouped)
        if result.get("Y") is not None:
            result["Y"] = np.asarray(result["Y"])
        if self.raw.sample_indices is not None:
            result["sample_indices"] = self.raw.sample_indices
        return result


def _attribute(record: Any, name: str) -> Any:
    return getattr(record, name, None)


def _legacy_raw_data(raw: RawData) -> Any:
    try:
        from ptycho.raw_data import RawData as LegacyRawData  # type: ignore[import-not-found]
    except ImportError as error:
        raise MissingDependencyError(
            "ptycho is not installed: backend='legacy' needs it; use backend='native'"
        ) from error
    return LegacyRawData.from_coords_without_pc(
        raw.xcoords, raw.ycoords, raw.diff3d, raw.probeGuess, raw.scan_index, raw.objectGuess
    )


@contextmanager
def _global_stream_kept() -> Iterator[None]:
    state = np.random.get_state()
    try:
        yield
    finally:
        np.random.set_state(state)
