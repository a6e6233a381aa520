"""Ptychographic scans to PyTorch batches: the front door.

Owns the public names and their homes. The first use of a name imports its room, so
``import ptycho_torch`` takes milliseconds and the NumPy names work without torch.

Without torch, a name that needs it raises
:class:`~ptycho_torch.data.errors.MissingDependencyError`, an ``ImportError``. An ``AttributeError``
would end ``from ptycho_torch import PtychoDataset`` in a bare "cannot import name". ``hasattr``
therefore raises too; ``dir`` lists every public name.
"""

from __future__ import annotations

import os
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptycho_torch.batches.augmentation import Augmentation
    from ptycho_torch.batches.batch import PtychoBatch
    from ptycho_torch.batches.dataset import PtychoDataset
    from ptycho_torch.batches.simulated_scans import SimulatedScans
    from ptycho_torch.data.config import GroupingConfig
    from ptycho_torch.data.corrections import Corrections
    from ptycho_torch.data.detector import Detector
    from ptycho_torch.data.errors import PtychoTorchError
    from ptycho_torch.data.geometry import Geometry
    from ptycho_torch.data.initial_probe import initial_probe
    from ptycho_torch.data.raw_data import RawData, read_scan
    from ptycho_torch.data.readers.conformance import ReaderConformance
    from ptycho_torch.data.readers.registry import register_reader
    from ptycho_torch.data.readers.write_product import write_product
    from ptycho_torch.data_container_bridge import PtychoDataContainerTorch
    from ptycho_torch.datamodule import PtychoDataModule
    from ptycho_torch.memmap_bridge import MemmapDatasetBridge
    from ptycho_torch.models.object_fit import ObjectFit
    from ptycho_torch.models.pinn import PtychoPINN
    from ptycho_torch.raw_data_bridge import RawDataTorch
    from ptycho_torch.results.batch_figure import plot
    from ptycho_torch.results.metrics import (
        amplitude_pearson,
        centred_correlation,
        phase_pearson,
    )
    from ptycho_torch.results.ring_correlation import fourier_ring_correlation
    from ptycho_torch.simulation.scan import simulate_scan

__version__ = "0.2.0"

__all__ = [
    "Augmentation",
    "Corrections",
    "Detector",
    "Geometry",
    "GroupingConfig",
    "MemmapDatasetBridge",
    "ObjectFit",
    "PtychoBatch",
    "PtychoDataContainerTorch",
    "PtychoDataModule",
    "PtychoDataset",
    "PtychoPINN",
    "PtychoTorchError",
    "RawData",
    "RawDataTorch",
    "ReaderConformance",
    "SimulatedScans",
    "__version__",
    "amplitude_pearson",
    "centred_correlation",
    "fourier_ring_correlation",
    "initial_probe",
    "phase_pearson",
    "plot",
    "read_scan",
    "register_reader",
    "simulate_scan",
    "write_product",
]

_HOME = MappingProxyType(
    {
        "Augmentation": "ptycho_torch.batches.augmentation",
        "Corrections": "ptycho_torch.data.corrections",
        "Detector": "ptycho_torch.data.detector",
        "GroupingConfig": "ptycho_torch.data.config",
        "MemmapDatasetBridge": "ptycho_torch.memmap_bridge",
        "ObjectFit": "ptycho_torch.models.object_fit",
        "PtychoBatch": "ptycho_torch.batches.batch",
        "PtychoDataContainerTorch": "ptycho_torch.data_container_bridge",
        "PtychoDataModule": "ptycho_torch.datamodule",
        "PtychoDataset": "ptycho_torch.batches.dataset",
        "PtychoPINN": "ptycho_torch.models.pinn",
        "PtychoTorchError": "ptycho_torch.data.errors",
        "Geometry": "ptycho_torch.data.geometry",
        "RawData": "ptycho_torch.data.raw_data",
        "RawDataTorch": "ptycho_torch.raw_data_bridge",
        "ReaderConformance": "ptycho_torch.data.readers.conformance",
        "amplitude_pearson": "ptycho_torch.results.metrics",
        "centred_correlation": "ptycho_torch.results.metrics",
        "fourier_ring_correlation": "ptycho_torch.results.ring_correlation",
        "SimulatedScans": "ptycho_torch.batches.simulated_scans",
        "initial_probe": "ptycho_torch.data.initial_probe",
        "phase_pearson": "ptycho_torch.results.metrics",
        "plot": "ptycho_torch.results.batch_figure",
        "read_scan": "ptycho_torch.data.raw_data",
        "register_reader": "ptycho_torch.data.readers.registry",
        "simulate_scan": "ptycho_torch.simulation.scan",
        "write_product": "ptycho_torch.data.readers.write_product",
    }
)
_TORCH_FAMILY = ("torch", "tensordict", "lightning", "torchmetrics")


def __getattr__(name: str) -> Any:
    """Import the room of a public name, and return what it names."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'ptycho_torch' has no attribute {name!r}")
    try:
        return getattr(import_module(home), name)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _TORCH_FAMILY:
            raise
        from ptycho_torch.data.errors import MissingDependencyError

        raise MissingDependencyError(
            f"{package} is not installed: {name} needs it; pip install {package}"
        ) from error


def _refuse_mixed_files(folder: str) -> None:
    """Refuse a folder that another distribution's files share: whichever came last wins by file.

    The RECORD that an installer writes beside the package says what a file belongs to; a
    source checkout has none.
    """
    site = os.path.dirname(folder)
    ours, theirs = set[str](), set[str]()
    for name in os.listdir(site):
        record = os.path.join(site, name, "RECORD")
        owner = name.partition("-")[0].lower()
        if name.endswith(".dist-info") and owner.startswith("ptycho") and os.path.isfile(record):
            with open(record, encoding="utf-8") as lines:
                paths = {line.partition(",")[0] for line in lines}
            mine = {path[13:] for path in paths if path.startswith("ptycho_torch/")}
            (ours if owner == "ptycho_torch" else theirs).update(mine)
    names = {path.partition("/")[0] for path in ours}
    beside = set(os.listdir(folder)) - names - {"__pycache__"} if "__init__.py" in names else set()
    foreign = sorted({path.partition("/")[0] for path in theirs} | beside)
    if foreign:
        from ptycho_torch.data.errors import MixedInstallError

        raise MixedInstallError(
            "the folder ptycho_torch",
            f"shared with another distribution ({', '.join(foreign[:3])})",
            "the files of ptycho-torch",
            action="Type: pip uninstall -y ptychopinn ptycho-torch && pip install ptycho-torch",
        )


_refuse_mixed_files(os.path.dirname(os.path.abspath(__file__)))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
