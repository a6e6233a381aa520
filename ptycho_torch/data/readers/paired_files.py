"""Two files of one scan, positions in one and frames in the other, found by their names."""

from __future__ import annotations

from pathlib import Path

from ptycho_torch.data.errors import ScanError

PAIRS = (("product", "diffraction"), ("_para", "_dp"), ("ptychodus_para", "ptychodus_dp"))
"""Words that tell the file of positions from the file of frames."""
ENDINGS = (".h5", ".hdf5", ".hdf", ".cxi", ".npz", ".npy")


def partner_of(path: Path, *, frames: bool) -> Path:
    """The other file of a pair: that of the frames, or with ``frames`` False of the positions.

    ScanError: none is there, or several are.
    """
    names = []
    for positions_word, frames_word in PAIRS:
        have, want = (positions_word, frames_word) if frames else (frames_word, positions_word)
        head, found, tail = path.stem.rpartition(have)
        if found and f"{head}{want}{tail}" not in names:
            names.append(f"{head}{want}{tail}")
    there = [path.with_name(name + ending) for name in names for ending in ENDINGS]
    there = [file for file in there if file.exists()]
    if len(there) == 1:
        return there[0]
    missing, example = ("frames", "diffraction.h5") if frames else ("positions", "product.h5")
    looked = f", for instance {names[0]}{path.suffix}," if names else ""
    if frames:
        action = f"Type read_scan({path.name!r}, diffraction={example!r})"
    else:
        action = (
            f"Open the file of the positions: read_scan({example!r}, diffraction={path.name!r})"
        )
    action += "; on the command line --diffraction FILE"
    if there:
        found = f"in {len(there)} files beside it ({', '.join(file.name for file in there)})"
        raise ScanError(missing, found, "one", action=action)
    expected = f"them in this file or in one{looked} beside it"
    raise ScanError(missing, "missing", expected, action=action)
