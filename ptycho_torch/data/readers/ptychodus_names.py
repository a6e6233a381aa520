"""One vocabulary in three files: what Ptychodus calls things in NPZ, found in HDF5 and CXI too.

Read in the sources of Ptychodus 1.7.0 (BSD-3-Clause). Knows no meaning of what is found.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from ptycho_torch.data.errors import ScanError
from ptycho_torch.data.files.hdf5 import Hdf5File
from ptycho_torch.data.files.npy_header import shape_text
from ptycho_torch.data.files.zip_archive import ZipArchive

Held = Callable[[str], Any]
"""What a file holds under a name of the NPZ product, an array, number or text; None: nothing."""

CXI = "/entry_1/ptychodus"
_CXI_PLACES = MappingProxyType(
    {
        "probe": "/entry_1/image_1/data",
        "object": "/entry_1/image_2/data",
        "name": "/entry_1/title",
        "comments": "/entry_1/experiment_description",
        "detector_object_distance_m": "/entry_1/instrument_1/detector_1/distance",
    }
)
_CXI_TRANSLATION = "/entry_1/sample_1/geometry_1/translation"
_CXI_ENERGY_J = "/entry_1/instrument_1/source_1/energy"
_JOULE_PER_EV = 1.602176634e-19


def in_hdf5(file: Hdf5File) -> Held:
    """Names of the product in HDF5: a dataset, an attribute of the root, of object or probe."""

    def held(name: str) -> Any:
        if name in file and not file.names(name):
            return file.read_array(name)
        found = file.read_attr("/", name)
        owner, _, attribute = name.partition("_")
        if found is None and owner in ("object", "probe") and owner in file:
            found = file.read_attr(owner, attribute)
        return found

    return held


def in_cxi(file: Hdf5File) -> Held:
    """The same names in CXI, where Ptychodus keeps most in a group of its own."""

    def held(name: str) -> Any:
        if name == "photon_energy_eV" and _CXI_ENERGY_J in file:
            return file.read_array(_CXI_ENERGY_J) / _JOULE_PER_EV
        if name in ("probe_position_x_m", "probe_position_y_m") and _CXI_TRANSLATION in file:
            moves = file.read_array(_CXI_TRANSLATION)
            if moves.ndim != 2 or moves.shape[1] not in (2, 3):
                raise ScanError(_CXI_TRANSLATION, shape_text(moves.shape), "(M, 3), metres")
            return moves[:, "xy".index(name[15])]
        place = _CXI_PLACES.get(name, f"{CXI}/{name}")
        if place not in file:
            return None
        return file.read_text(place) if name in ("name", "comments") else file.read_array(place)

    return held


def in_npz(archive: ZipArchive) -> Held:
    """The same names in an NPZ."""

    def held(name: str) -> Any:
        return archive.read(name) if name in archive.members else None

    return held
