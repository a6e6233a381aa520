"""``ptycho-torch doctor``: what works on this machine, what is missing, and what to type.

Owns the checks. Each imports what it asks about when it runs, so that a machine without torch gets
an answer too. Leaves nothing behind.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import ptycho_torch
from ptycho_torch.data.caches.names import user_cache_base
from ptycho_torch.data.errors import CacheLockTimeoutError, PtychoTorchError, shown
from ptycho_torch.data.files.build_lock import build_lock
from ptycho_torch.data.files.hdf5 import SUFFIXES
from ptycho_torch.data.readers.registry import readers

_NEEDED = ("numpy", "scipy", "filelock", "tqdm", "yaml")
_TRAINING = ("torch", "lightning", "tensordict", "torchmetrics", "jsonargparse")
_OPTIONAL = MappingProxyType(
    {
        "matplotlib": ("pictures", "ptycho-torch[plot]"),
        "h5py": ("scans in HDF5", "ptycho-torch[formats]"),
        "hdf5plugin": ("filters of detectors in HDF5", "ptycho-torch[formats]"),
        "rsciio": ("4D-STEM rasters", "rosettasciio"),
        "tensorboard": ("the logger with pictures", "ptycho-torch[tensorboard]"),
    }
)
_PROJECTS = MappingProxyType({"yaml": "PyYAML", "rsciio": "rosettasciio"})
_LEAST_FREE_GIB = 1.0


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, and in words what was seen or what to type."""

    state: Literal["ok", "missing", "broken"]
    name: str
    text: str


def doctor(options: argparse.Namespace) -> None:
    """Print every finding; exit code 1 when something is broken.

    What is missing, but wanted by some commands only, is not broken.
    """
    checks = (_packages(), _clashes(), _devices(), _places(options.dir), _formats())
    broken = 0
    for finding in (finding for check in checks for finding in check):
        print(f"{finding.state:<8} {finding.name:<14} {shown(finding.text)}")
        broken += finding.state == "broken"
    if broken:
        raise SystemExit(1)


def _packages() -> Iterator[Finding]:
    where = Path(ptycho_torch.__file__).parent
    yield Finding("ok", "ptycho-torch", f"{ptycho_torch.__version__} in {where}")
    yield Finding("ok", "python", f"{platform.python_version()} on {platform.platform()}")
    bounds = _bounds()
    for name in (*_NEEDED, *_TRAINING, *_OPTIONAL):
        purpose, install = _OPTIONAL.get(name, ("fit, validate, test and predict", name))
        project = _PROJECTS.get(name, name)
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                text = f"needs {error.name}: pip install {error.name}"
                # Metrics without torch are of no use, and no fault.
                together = {name, error.name} <= set(_TRAINING)
                yield Finding("missing" if together else "broken", project, text)
            elif name in _NEEDED:
                yield Finding("broken", project, f"pip install {project}")
            else:
                yield Finding("missing", project, f"for {purpose}: pip install '{install}'")
            continue
        except Exception as error:  # whatever a broken package raises
            yield Finding("broken", project, f"cannot be imported: {error}")
            continue
        version, least = metadata.version(project), bounds.get(project.lower(), "")
        if _numbers(version) < _numbers(least):
            text = f"{version}; expected {least} or newer: pip install '{project}>={least}'"
            yield Finding("broken", project, text)
        else:
            yield Finding("ok", project, version)


def _bounds() -> dict[str, str]:
    """The oldest version of each package that the installed metadata allows."""
    try:
        lines = metadata.requires("ptycho-torch") or []
    except metadata.PackageNotFoundError:  # run from its folder
        return {}
    found = (re.match(r"([\w-]+)[^;]*>=([\d.]+)", line) for line in lines)
    return {match[1].lower(): match[2] for match in found if match}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))


def _clashes() -> Iterator[Finding]:
    ours = {"ptycho-torch", "ptycho_torch"}
    others = set(metadata.packages_distributions().get("ptycho_torch", []))
    with contextlib.suppress(metadata.PackageNotFoundError):
        others.add(metadata.metadata("ptychopinn")["Name"])
    clashing = sorted(others - ours)
    if clashing:
        remedy = f"pip uninstall -y {' '.join(clashing)} ptycho-torch && pip install ptycho-torch"
        text = f"brings a folder ptycho_torch of its own: {remedy}"
        yield Finding("broken", ", ".join(clashing), text)


def _devices() -> Iterator[Finding]:
    yield Finding("ok", "cpu", f"{os.cpu_count()} cores")
    try:
        import torch
    except Exception:  # said above, by its name
        return
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        yield Finding("ok", f"cuda:{index}", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB")
    if not torch.cuda.device_count():
        built = torch.version.cuda
        text = "no GPU is seen: fits run on the CPU"
        yield Finding("missing", "cuda", text if built else f"{text}; this torch is for CPUs only")


def _places(folder: Path) -> Iterator[Finding]:
    """Where caches would lie: beside the scans, else in the user's cache directory."""
    try:
        places = {"beside scans": folder, "user cache": user_cache_base(folder)}
    except PtychoTorchError:
        places = {"beside scans": folder}
    findings = [_place(name, path) for name, path in places.items()]
    if not any(finding.state == "ok" for finding in findings):
        text = "no place for caches: set XDG_CACHE_HOME to a directory to write in"
        findings.append(Finding("broken", "caches", text))
    yield from findings


def _place(name: str, folder: Path) -> Finding:
    there = folder.absolute()
    while not there.is_dir() and there != there.parent:  # it is made when a cache is
        there = there.parent
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".ptycho-torch-doctor-") as trial:
            _try_lock(Path(trial) / "cache")
        free = shutil.disk_usage(there).free / 2**30
    except (OSError, PtychoTorchError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Finding("missing", name, f"no cache can lie in {folder}: {reason}")
    text = f"{folder}: locks work, {free:.1f} GiB free"
    if free < _LEAST_FREE_GIB:
        text += "; little for sidecars of compressed frames"
    return Finding("ok", name, text)


def _try_lock(target: Path) -> None:
    """Hold a lock and see that it keeps a second holder out."""
    with build_lock(target, 0.0):
        try:
            with build_lock(target, 0.0):
                raise OSError("two processes get one lock")
        except CacheLockTimeoutError:
            return


def _formats() -> Iterator[Finding]:
    try:
        known = list(readers())
    except PtychoTorchError as error:
        yield Finding("broken", "formats", str(error))
        return
    for reader in known:
        raster = reader.name == "rosettasciio"
        needs = "rsciio" if raster else "h5py"
        asking = [each for each in reader.suffixes if raster or each in SUFFIXES]
        try:
            if asking:
                import_module(needs)
        except ImportError:
            text = f"{', '.join(asking)}: pip install '{_OPTIONAL[needs][1]}'"
            yield Finding("missing", reader.name, text)
        else:
            yield Finding("ok", reader.name, ", ".join(reader.suffixes))
