"""Models here see the far field only.

Owns the refusal of scans of the near field.
"""

from __future__ import annotations

from ptycho_torch.data.errors import OptionError
from ptycho_torch.data.raw_data import RawData


def require_far_field(scan: RawData) -> None:
    """Refuse a scan whose geometry says that it is one of the near field.

    Raises
    ------
    OptionError
        It is: frames are not the transform of the exit wave then.
    """
    if scan.geometry is not None and scan.geometry.near_field:
        found, expected = "that of the near field", "the far field: frames are modelled as |FFT|"
        action = "Fit it with a program that propagates, or correct near_field of its geometry"
        raise OptionError("geometry", found, expected, action=action, file=scan.path)
