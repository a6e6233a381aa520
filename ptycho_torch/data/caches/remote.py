"""Files elsewhere (``s3://``, ``https://``, whatever fsspec reads) as copies on this machine.

Owns the folder of copies: how large it may get, which go first, and when one is believed. Knows no
formats.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ptycho_torch.data.caches.names import user_cache_base
from ptycho_torch.data.errors import (
    MissingDependencyError,
    OptionError,
    PtychoTorchError,
    ScanFileError,
    ScanFileNotFoundError,
    naming,
)
from ptycho_torch.data.files.atomic_write import atomic_write
from ptycho_torch.data.files.build_lock import build_lock, build_timeout_s
from ptycho_torch.data.files.zip_archive import damaged

BOUND_VARIABLE = "PTYCHO_TORCH_REMOTE_BYTES"
DEFAULT_BOUND = 50 << 30

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+)://?(.*)", re.DOTALL)
_VERSIONS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated")
_BLOCK_BYTES = 4 << 20


def is_remote(name: str | os.PathLike[str]) -> bool:
    """Whether a name is a URL, also one that went through a Path and lost a slash."""
    return _URL.fullmatch(os.fspath(name)) is not None and not os.path.exists(name)


def local_copies(url: str | os.PathLike[str], keep: set[Path] | None = None) -> list[Path]:
    """Paths of copies of a file elsewhere, or of all that a pattern matches, sorted.

    A copy is made once, and again when size or version (ETag, or time) elsewhere are others. All
    copies together take no more than ``$PTYCHO_TORCH_REMOTE_BYTES``, by default 50 GiB, with
    what is cached beside them; those used longest ago go first, except those in ``keep``, to which
    these are added. ``file://`` is no copy but the file.

    MissingDependencyError, OptionError: no fsspec, or no package for such URLs. ScanFileError,
    ScanFileNotFoundError: not to be had, or larger than the bound. CacheLockTimeoutError.
    """
    match = _URL.fullmatch(os.fspath(url))
    assert match is not None
    kept = set() if keep is None else keep
    if match[1].lower() == "file":
        return [Path("/" + match[2].lstrip("/"))]
    whole = f"{match[1]}://{match[2].lstrip('/')}"
    with _speaking(whole):
        files, place = _fsspec().core.url_to_fs(whole)
        places = sorted(files.glob(place)) if glob.has_magic(match[2]) else [place]
        if not places:
            raise ScanFileNotFoundError("the pattern", "matching no file", "at least one scan")
        return [_copy(files, each, files.unstrip_protocol(each), kept) for each in places]


def one_local_copy(url: str | os.PathLike[str]) -> Path:
    """As :func:`local_copies`, for a URL that has to lead to one file."""
    copies = local_copies(url)
    if len(copies) != 1:
        with naming(url):
            raise ScanFileError("the pattern", f"matching {len(copies)} files", "one scan")
    return copies[0]


def _copy(files: Any, place: str, url: str, keep: set[Path]) -> Path:
    info = files.info(place)
    size = info.get("size")
    if info.get("type", "file") != "file" or not isinstance(size, int):
        raise ScanFileError("file", "without a size", "one file of known size")
    source = {"url": url, "size": size, "version": _version(files, place, info)}
    base = user_cache_base(Path(place)) / "remote"
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = base / _name_of(url)
    keep.add(folder)
    copy, note = folder / Path(place).name, folder / "source.json"
    with build_lock(base / "copies", build_timeout_s(size)):
        if not _is_copy(copy, note, source):
            _make_room(base, size, keep - {folder})
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)
            _fetch(files, place, size, copy)
            if _version(files, place, files.info(place)) != source["version"]:
                raise ScanFileError("file", "replaced while it was copied", "at rest")
            with atomic_write(note) as handle:
                handle.write(json.dumps(source).encode())
        os.utime(note)
    return copy


def _version(files: Any, place: str, info: dict[str, Any]) -> list[str]:
    said = [str(info[name]) for name in _VERSIONS if info.get(name) is not None]
    return [str(files.ukey(place)), *said]


def _name_of(url: str) -> str:
    return hashlib.sha256(os.fsencode(url)).hexdigest()[:24]


def _is_copy(copy: Path, note: Path, source: dict[str, Any]) -> bool:
    try:
        same: bool = json.loads(note.read_bytes()) == source
        return same and copy.stat().st_size == source["size"]
    except (OSError, ValueError):
        return False


def _fetch(files: Any, place: str, size: int, copy: Path) -> None:
    with atomic_write(copy) as out, files.open(place, "rb") as stream:
        done = 0
        while block := stream.read(_BLOCK_BYTES):
            done += len(block)
            if done > size:
                break
            out.write(block)
        if done != size:
            raise damaged("file", f"{done} bytes or more", f"{size}, as said before")


def _make_room(base: Path, size: int, keep: set[Path]) -> None:
    """Remove the copies used longest ago until one of this size fits."""
    bound = _bound()
    folders = [each for each in base.iterdir() if each.is_dir()]
    sizes = {each: _bytes_in(each) for each in folders}
    if size + sum(sizes[each] for each in folders if each in keep) > bound:
        action = f"Set {BOUND_VARIABLE} to more bytes, or name fewer scans at once"
        found = f"{size} bytes beside {len(keep)} other scans" if keep else f"{size} bytes"
        raise ScanFileError("size", found, f"at most {bound} in all", action=action)
    oldest = sorted((each for each in folders if each not in keep), key=_last_use)
    while oldest and size + sum(sizes.values()) > bound:
        gone = oldest.pop(0)
        shutil.rmtree(gone, ignore_errors=True)
        sizes.pop(gone)


def _bound() -> int:
    text = os.environ.get(BOUND_VARIABLE, str(DEFAULT_BOUND))
    if not (text.isascii() and text.isdigit()):
        raise OptionError(BOUND_VARIABLE, repr(text), "a number of bytes")
    return int(text)


def _bytes_in(folder: Path) -> int:
    total = 0
    for each in folder.iterdir():
        with suppress(OSError):
            total += each.stat().st_size
    return total


def _last_use(folder: Path) -> float:
    try:
        return (folder / "source.json").stat().st_mtime
    except OSError:
        return 0.0  # never finished


def _fsspec() -> Any:
    try:
        import fsspec
    except ImportError as error:
        action = "pip install fsspec"
        raise MissingDependencyError("fsspec", "missing", "installed", action=action) from error
    return fsspec


@contextmanager
def _speaking(url: str) -> Iterator[None]:
    """Name the URL, and turn whatever a file system elsewhere raises into one line."""
    with naming(url):
        try:
            yield
        except PtychoTorchError:
            raise
        except FileNotFoundError as error:
            raise ScanFileNotFoundError("file", "missing", "there") from error
        except ImportError as error:
            found = f"not to be read here ({error})"
            raise MissingDependencyError("URL", found, "a package for it") from error
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ScanFileError("file", f"not fetched ({reason})", "to be had") from error
