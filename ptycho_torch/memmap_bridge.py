"""MemmapDatasetBridge: a mapped scan file behind the TensorFlow pipeline's memory-map bridge.

Owns the place of the map's sidecar and of the groups cache. Frames stay in the file; RawData makes
the groups. Knows no formula; nothing else in the package imports it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptycho_torch.data.raw_data import read_scan
from ptycho_torch.data.representation import scan_title
from ptycho_torch.legacy_params import Configuration, to_legacy_params
from ptycho_torch.raw_data_bridge import RawDataTorch


class MemmapDatasetBridge:
    """Grouped data of a canonical NPZ whose frames are mapped, with a groups cache.

    Parameters
    ----------
    npz_path
        Canonical NPZ. Where it has both ``diff3d`` and ``diffraction``, this bridge takes
        ``diffraction``, as PtychoPINN's does.
    config
        A :class:`~ptycho_torch.config_bridge.TrainingConfig`, or any dataclass with its field
        names: gives the defaults of :meth:`get_grouped_data`, and ``n_subsample``.
    memmap_dir
        Folder of the groups cache, and of the frames that a compressed file unpacks into; made
        where it is missing. None: beside the scan.
    measurement
        ``"amplitude"``, ``"counts"`` or ``"auto"``, as for ``RawData.from_file``.

    Attributes
    ----------
    raw_data_torch
        The :class:`~ptycho_torch.raw_data_bridge.RawDataTorch` of the file; it answers for
        attributes that are not here: ``raw``, ``xcoords``, ``ycoords``, ``diff3d``,
        ``probeGuess``, ``objectGuess``, ``scan_index``.
    npz_path, config
        As given.

    Raises
    ------
    ScanFileNotFoundError, ScanFileError, ScanKeyError, ScanError
        As from ``RawData.from_file``.
    """

    def __init__(
        self,
        npz_path: str | Path,
        config: Configuration,
        memmap_dir: str | Path | None = None,
        *,
        measurement: str = "auto",
    ) -> None:
        settings = to_legacy_params(config)
        self.npz_path = Path(npz_path)
        self.config = config
        self._gridsize = settings.get("gridsize", 1)
        self._cache_dir = self.npz_path.parent if memmap_dir is None else Path(memmap_dir)
        if memmap_dir is not None:
            self._cache_dir.mkdir(parents=True, exist_ok=True)
        raw = read_scan(
            self.npz_path,
            format="npz",
            measurement=measurement,
            frames_key="diffraction",
            sidecar="auto" if memmap_dir is None else self._cache_dir,
        )
        if settings.get("n_subsample") is not None:
            raw = raw.subsample(settings["n_subsample"], settings.get("subsample_seed"))
        self.raw_data_torch = RawDataTorch.from_acquisition(raw, config)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "raw_data_torch":
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
        return getattr(self.raw_data_torch, name)

    def __len__(self) -> int:
        return len(self.raw)

    def __repr__(self) -> str:
        return f"MemmapDatasetBridge({scan_title(self.raw)}, cache in {self._cache_dir})"

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
        path = self._cache_dir / self.npz_path.name
        side = self._gridsize if gridsize is None else gridsize
        return self.raw_data_torch.generate_grouped_data(N, K, nsamples, path, seed, gridsize=side)
