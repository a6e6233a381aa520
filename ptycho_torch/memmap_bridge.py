"""MemmapDatasetBridge: a mapped scan file behind the TensorFlow pipeline's memory-map bridge.

Owns the place of the map's sidecar and of the groups cache. Frames stay in the file; RawData makes
the groups. Knows no formula; nothing else in the package imports it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptycho_torch.data.errors import OptionTypeError
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.legacy_params import Configuration, grouping_defaults, to_legacy_params


class MemmapDatasetBridge:
    """Grouped data of a canonical NPZ whose frames are mapped, with a groups cache.

    Parameters
    ----------
    npz_path
        Canonical NPZ.
    config
        A :class:`~ptycho_torch.config_bridge.TrainingConfig`, or any dataclass with its field
        names: gives the defaults of :meth:`get_grouped_data`, and ``n_subsample``.
    memmap_dir
        Folder of the groups cache, and of the frames that a compressed file unpacks into; made
        where it is missing. None: beside the scan.

    Attributes
    ----------
    raw
        The :class:`~ptycho_torch.data.raw_data.RawData` of the file.

    Raises
    ------
    ScanFileNotFoundError, ScanFileError, ScanKeyError, ScanError
        As from ``RawData.from_file``.
    """

    def __init__(
        self, npz_path: str | Path, config: Configuration, memmap_dir: str | Path | None = None
    ) -> None:
        settings = to_legacy_params(config)
        self._defaults = grouping_defaults(settings)
        path = Path(npz_path)
        self._cache_dir = path.parent if memmap_dir is None else Path(memmap_dir)
        if memmap_dir is not None:
            self._cache_dir.mkdir(parents=True, exist_ok=True)
        self.raw = RawData.from_file(
            path,
            n_subsample=settings.get("n_subsample"),
            subsample_seed=settings.get("subsample_seed"),
            sidecar="auto" if memmap_dir is None else self._cache_dir,
        )

    def __len__(self) -> int:
        return len(self.raw)

    def __repr__(self) -> str:
        return f"MemmapDatasetBridge({self.raw!r}, cache in {self._cache_dir})"

    def get_grouped_data(
        self,
        N: int | None = None,
        K: int | None = None,
        nsamples: int | None = None,
        gridsize: int | None = None,
        seed: int | None = None,
    ) -> dict[str, Any]:
        """The dict of ``RawData.generate_grouped_data``.

        Parameters
        ----------
        N, K, nsamples, gridsize
            None takes the configuration's N, neighbor_count, n_groups and gridsize. Without
            n_groups there is one group per frame.
        seed
            Seed of the draws; None takes fresh entropy.

        Raises
        ------
        OptionError, OptionTypeError, ScanError
            As from ``generate_grouped_data``.
        """
        given = {"N": N, "K": K, "nsamples": nsamples, "gridsize": gridsize}
        options = {"N": self.raw.N, "nsamples": len(self.raw), "gridsize": 1} | self._defaults
        options |= {name: value for name, value in given.items() if value is not None}
        if self.raw.path is None:
            raise OptionTypeError("the scan's path", None, "a file")
        path = self._cache_dir / self.raw.path.name
        return self.raw.generate_grouped_data(**options, dataset_path=path, seed=seed)
