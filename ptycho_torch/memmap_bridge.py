"""MemmapDatasetBridge: a scan file, mapped, behind the lineage's memory-map bridge.

Owns where the map's sidecar and the groups cache are kept. Frames stay in the file; groups are
those of RawData. Knows no formula; nothing else in the package imports it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptycho_torch.config_bridge import to_legacy_params
from ptycho_torch.data.errors import OptionTypeError
from ptycho_torch.data.raw_data import RawData


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
        Where the decompressed frames of a compressed file and ``.groups_cache.npz`` are kept;
        created when absent. None: beside the scan.

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
        self, npz_path: str | Path, config: Any, memmap_dir: str | Path | None = None
    ) -> None:
        self._settings = to_legacy_params(config)
        path = Path(npz_path)
        self._cache_dir = path.parent if memmap_dir is None else Path(memmap_dir)
        if memmap_dir is not None:
            self._cache_dir.mkdir(parents=True, exist_ok=True)
        self.raw = RawData.from_file(
            path,
            n_subsample=self._settings.get("n_subsample"),
            subsample_seed=self._settings.get("subsample_seed"),
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
            None takes the configuration's value: N, neighbor_count, n_groups, gridsize. Without
            n_groups there is one group a frame.
        seed
            Seed of the draws; None takes fresh entropy.

        Raises
        ------
        OptionError, OptionTypeError, ScanError
            As from ``generate_grouped_data``.
        """
        settings = self._settings
        groups = settings.get("n_groups", len(self.raw))
        return self.raw.generate_grouped_data(
            settings.get("N", self.raw.N) if N is None else N,
            settings.get("neighbor_count", 4) if K is None else K,
            groups if nsamples is None else nsamples,
            dataset_path=self._cache_dir / self._file_name(),
            seed=seed,
            gridsize=settings.get("gridsize", 1) if gridsize is None else gridsize,
            sequential_sampling=settings.get("sequential_sampling", False),
            enable_oversampling=settings.get("enable_oversampling", False),
            neighbor_pool_size=settings.get("neighbor_pool_size"),
        )

    def _file_name(self) -> str:
        if self.raw.path is None:
            raise OptionTypeError("the scan's path", None, "a file")
        return self.raw.path.name
