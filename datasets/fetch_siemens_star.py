"""Fetch a measured scan: a Siemens star, hard X-rays, Advanced Photon Source (Velociprobe).

The scan is test data of the Python package tike (BSD-3-Clause, UChicago Argonne LLC) and comes in
its source distribution, which pip downloads and does not run. This script takes one file out of it
and converts it to ``datasets/siemens_star.npz``: counts become amplitude, the zero frequency moves
to the centre, corner positions (row, column) become centre positions x, y, counted from just before
the first.

    python datasets/fetch_siemens_star.py [OUT.npz]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np

from ptycho_torch import PtychoTorchError, RawData, read_scan

HERE = Path(__file__).resolve().parent
DOWNLOAD = HERE / "download"
REQUIREMENT = "tike==0.0.0"
MEMBER = "tike-0.0.0/tests/data/siemens-star-small.npz.bz2"
MEMBER_BYTES_AT_MOST = 64 * 2**20
SOURCE = "tike 0.0.0 source distribution (BSD-3-Clause, UChicago Argonne LLC)"
REFERENCE = "data/aps_velociprobe_siemens.npz"
# Two float32 square roots, and two float32 scalings of the probe, may differ by one or two units in
# the last place; positions are sums of float32 numbers and small integers.
RELATIVE_TOLERANCE = 1e-6


def main(out: Path) -> int:
    """Download, convert and compare; return the exit code."""
    if out.is_file():
        print(f"{out}: there already")
    else:
        packed = _unpack(_download())
        raw = read_scan(packed, format="tike")
        raw.metadata["provenance"] = SOURCE
        raw.to_file(out)
        print(f"{out}: {len(raw)} frames of {raw.N} x {raw.N}, from {MEMBER}")
    data = os.environ.get("PTYCHO_TORCH_DATA")
    reference = Path(data) / REFERENCE if data else None
    if reference is None or not reference.is_file():
        print("no independent conversion to compare with (PTYCHO_TORCH_DATA)")
        return 0
    return _compare(out, reference)


def _download() -> Path:
    archive = DOWNLOAD / "tike-0.0.0.tar.gz"
    if not archive.is_file():
        DOWNLOAD.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", ":all:", "--dest", str(DOWNLOAD), REQUIREMENT]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"pip could not download {REQUIREMENT}; is the network there?")
    return archive


def _unpack(archive: Path) -> Path:
    """Take one regular file out of the archive by its full name; nothing else is unpacked."""
    target = DOWNLOAD / Path(MEMBER).name
    with tarfile.open(archive) as opened:
        member = opened.getmember(MEMBER)
        stream = opened.extractfile(member) if member.isreg() else None
        if stream is None or member.size > MEMBER_BYTES_AT_MOST:
            raise SystemExit(f"{archive}: {MEMBER} is no regular file of a believable size")
        temporary = target.with_suffix(".part")
        temporary.write_bytes(stream.read(MEMBER_BYTES_AT_MOST))
        temporary.replace(target)
    return target


def _compare(out: Path, reference: Path) -> int:
    """Compare with an independent conversion of the same measurement, array by array."""
    ours, theirs = RawData.from_file(out), RawData.from_file(reference, sidecar="off")
    code = 0
    print(f"compared with {reference}:")
    for name in ("xcoords", "ycoords", "diff3d", "probeGuess"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        if mine.shape != other.shape:
            print(f"  {name}: shape {mine.shape}, expected {other.shape}")
            code = 1
            continue
        difference = float(np.abs(mine - other).max())
        allowed = RELATIVE_TOLERANCE * float(np.abs(other).max())
        verdict = "ok" if difference <= allowed else "TOO FAR APART"
        print(f"  {name}: largest difference {difference:.3g}, allowed {allowed:.3g}: {verdict}")
        code |= difference > allowed
    return int(code)


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "siemens_star.npz"))
    except (PtychoTorchError, OSError, tarfile.TarError, KeyError) as error:
        sys.exit(f"fetch_siemens_star: {error}")
