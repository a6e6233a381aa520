"""Hostile scans and caches are refused in one line: quickly, in little memory, running nothing."""

from __future__ import annotations

import contextlib
import io
import os
import random
import resource
import signal
import sys
import types
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_torch.data.caches import groups_cache
from ptycho_torch.data.config import GroupingConfig
from ptycho_torch.data.errors import PtychoTorchError
from ptycho_torch.data.files import zip_archive
from ptycho_torch.data.raw_data import RawData, read_scan

from .mutations import Base, mutate, read_base
from .processes import call
from .record import Outcome
from .scans import CACHE_NAME, GROUPING, listening, write_scan

PROCESSES = 2
HANG_S = 5
# Interpreter, allocator and imports; what a bomb takes is far more.
SLACK_BYTES = 4 << 20
FORBIDDEN_EVENTS = (
    "exec", "pickle.find_class", "os.system", "os.exec", "os.fork", "os.posix_spawn",
    "subprocess.Popen", "socket.connect", "ctypes.dlopen", "shutil.rmtree", "os.remove", "os.mkdir",
)  # fmt: skip


class CodeRan(BaseException):
    """Raised by the audit hook; no handler of the package may swallow it."""


class Watch:
    """Counts what must not happen while hostile bytes are read."""

    def __init__(self) -> None:
        self.on = False
        self.events: list[str] = []
        sys.addaudithook(self._hear)
        # What the payload of a pickle would import.
        sys.meta_path.insert(0, self)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        writes = (
            event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax")
        )
        if event in FORBIDDEN_EVENTS or writes:
            self.events.append(f"{event} {arguments}"[:200])
            raise CodeRan(event)

    def find_spec(self, name: str, *_: object) -> types.ModuleType | None:
        """Hear of every import."""
        if name == "campaign_payload":
            self.events.append("payload imported")
            raise CodeRan(name)
        return None


@contextlib.contextmanager
def limits(memory_bytes: int) -> Iterator[None]:
    """No more memory than this on top of what there is, and no more than ``HANG_S`` seconds."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + memory_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    signal.alarm(HANG_S)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def mutated_scans(folder: Path, rounds: int, seed: int) -> Outcome:
    """Read mutated scans of every format, whole or compressed."""
    outcome = Outcome(
        "mutated NPZ, structure-aware and blind",
        "only our errors; no hang over 5 s, no allocation over 2 x file size, no code run",
        0,
        seed,
    )
    return _in_parallel(outcome, _read_many, folder, rounds, seed)


def mutated_caches(folder: Path, rounds: int, seed: int) -> Outcome:
    """Open a scan beside mutated caches."""
    outcome = Outcome(
        "mutated groups caches, structure-aware and blind",
        "true groups always; no hang over 5 s, no allocation over 2 x file size, no code run",
        0,
        seed,
    )
    return _in_parallel(outcome, _cache_many, folder, rounds, seed)


def _in_parallel(outcome: Outcome, work: Any, folder: Path, rounds: int, seed: int) -> Outcome:
    from concurrent.futures import ThreadPoolExecutor

    shares = [rounds // PROCESSES + (n < rounds % PROCESSES) for n in range(PROCESSES)]
    with ThreadPoolExecutor(PROCESSES) as pool:
        parts = [
            pool.submit(call, work, folder / str(n), share, seed * PROCESSES + n, timeout_s=3600)
            for n, share in enumerate(shares)
        ]
        for part in parts:
            try:
                outcome.merge(part.result())
            except RuntimeError as error:
                outcome.failures.append(f"crashed: {error}")
    return outcome


def scan_bases(folder: Path, seed: int) -> list[Base]:
    """A few valid scans: stored, compressed, with patches and modes, and of the tike format."""
    stored = write_scan(folder / "stored", compressed=False, n_frames=60, N=8, seed=seed)
    packed = write_scan(folder / "packed", compressed=True, n_frames=300, N=16, seed=seed)
    with np.load(stored) as archive:
        arrays = {name: archive[name] for name in archive.files}
    rich = {**arrays, "_metadata": np.array('{"nphotons": 1e5}')}
    rich["Y"] = np.ones((60, 8, 8), np.complex64)
    rich["probeGuess"] = np.stack([arrays["probeGuess"]] * 2)
    rich["diff3d"] = np.rint(arrays["diff3d"] ** 2).astype(np.uint16)
    tike = {
        "data": rich["diff3d"][None],
        "scan": np.column_stack([arrays["ycoords"], arrays["xcoords"]])[None].astype("f4"),
        "probe": arrays["probeGuess"][None, None, None, None],
    }
    contents = [stored.read_bytes(), packed.read_bytes()]
    for save, content in ((np.savez, rich), (np.savez_compressed, rich), (np.savez, tike)):
        buffer = io.BytesIO()
        save(buffer, **content)
        contents.append(buffer.getvalue())
    return [read_base(content) for content in contents]


def use_scan(path: Path, measurement: str) -> RawData:
    """All that opening, checking and grouping a scan does without torch; writes nothing."""
    options = {} if measurement == "auto" else {"measurement": measurement}
    raw = read_scan(path, **options)
    raw.frames.verify()
    return raw


def check_use(raw: RawData) -> None:
    """A scan that was accepted must give batches that are sound."""
    K = min(5, len(raw) - 1)
    if K < 4:
        return
    config = GroupingConfig(gridsize=2, neighbor_count=K, n_groups=8)
    groups = raw.group(config, "off")
    found = raw.generate_grouped_data(
        raw.N, K, min(8, len(raw)), gridsize=2, seed=1, patch_positions="scan"
    )
    assert np.isfinite(found["X_full"]).all(), "X is not finite"
    assert np.isfinite(found["coords_relative"]).all(), "coordinates are not finite"
    assert np.isfinite(groups.frame_energies).all(), "energies are not finite"


def _read_many(folder: Path, rounds: int, seed: int) -> Outcome:
    outcome = Outcome("", "", rounds, seed)
    rng = random.Random(seed)
    bases = scan_bases(folder, seed % 100)
    path = folder / "hostile.npz"
    watch = _ready(bases, path)
    seen: Counter[str] = outcome.seen
    for number in range(rounds):
        kind, content = mutate(rng.choice(bases), rng)
        path.write_bytes(content)
        # Modest compression is not hostile: what a valid archive unpacks to is its size as well.
        most = 2 * max(len(content), min(_declared(content), 4 * len(content)))
        label = f"{seed}/{number} {kind}"
        measurement = rng.choice(["auto", "counts", "amplitude"])
        raw = None
        watch.on = True
        try:
            with limits(len(content) + most + SLACK_BYTES):
                raw = use_scan(path, measurement)
        except PtychoTorchError as error:
            if "\n" in str(error) or len(str(error)) > 1000:
                outcome.failures.append(f"{label}: not one short line: {str(error)[:200]!r}")
            seen["refused"] += 1
        except BaseException as error:
            outcome.failures.append(f"{label}: {type(error).__name__}: {str(error)[:200]}")
        finally:
            watch.on = False
        if raw is not None:
            try:
                check_use(raw)
                seen["accepted, batches sound"] += 1
            except PtychoTorchError:
                seen["refused when grouped"] += 1
            except Exception as error:
                outcome.failures.append(f"{label}: accepted: {error!r}"[:300])
    outcome.check(not watch.events, f"code ran: {watch.events[:3]}")
    return outcome


def _cache_many(folder: Path, rounds: int, seed: int) -> Outcome:
    outcome = Outcome("", "", rounds, seed)
    rng = random.Random(seed)
    scan = write_scan(folder / "scan", compressed=False, n_frames=400, seed=seed % 100)
    raw = RawData.from_file(scan)
    groups = raw.group(GROUPING)
    path = scan.with_name(CACHE_NAME)
    base = read_base(path.read_bytes())
    truth = groups_cache.verify(path, raw.xcoords, raw.ycoords)
    watch = _ready([base], path)
    for number in range(rounds):
        kind, content = mutate(base, rng)
        path.write_bytes(content)
        watch.on = True
        try:
            with (
                limits(len(content) + 2 * _declared(base.content) + SLACK_BYTES),
                listening() as log,
            ):
                found = raw.group(GROUPING, "readonly")
                faults = groups_cache.verify(path, raw.xcoords, raw.ycoords)
        except BaseException as error:
            outcome.failures.append(
                f"{seed}/{number} {kind}: {type(error).__name__}: {error}"[:300]
            )
            continue
        finally:
            watch.on = False
        equal = np.array_equal(found.nn_indices, groups.nn_indices) and np.array_equal(
            found.frame_energies, groups.frame_energies
        )
        outcome.check(equal, f"{seed}/{number} {kind}: other groups")
        outcome.check(
            all("\n" not in line for line in [*faults, *log.warnings]), f"{seed}/{number}: {faults}"
        )
        used = not log.warnings
        outcome.seen["believed: equal groups" if used else "not believed"] += 1
        outcome.seen["verify silent" if not faults else "verify finds it"] += 1
    outcome.check(not truth, f"the unchanged cache: {truth}")
    outcome.check(not watch.events, f"code ran: {watch.events[:3]}")
    return outcome


def _ready(bases: list[Base], path: Path) -> Watch:
    """Set up this process: everything imported, alarms that raise, nothing yet watched."""
    warnings.simplefilter("ignore")
    # 256 MiB in a real run: here small enough for bombs that can be made by the thousand.
    zip_archive.MODERATE_BYTES = 1 << 20
    rng = random.Random(0)
    for base in bases:
        for _ in range(20):
            path.write_bytes(rng.choice([base.content, mutate(base, rng)[1]]))
            with contextlib.suppress(PtychoTorchError, AssertionError):
                check_use(use_scan(path, "counts"))

    def hung(*_: object) -> None:
        raise CodeRan(f"no end after {HANG_S} s")

    signal.signal(signal.SIGALRM, hung)
    os.environ["XDG_CACHE_HOME"] = str(path.parent / "none")
    return Watch()


def _declared(content: bytes) -> int:
    """Bytes that an archive's directory says it holds, as far as it can be read."""
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    except Exception:
        return 0
