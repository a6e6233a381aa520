"""What every reader must do, as tests that a package with a reader of its own inherits.

A test module there has one class, and pytest runs every ``test_`` of it::

    class TestMine(ReaderConformance):
        reader = mine_reader

        def write(self, folder, scan, *, poor):
            path = folder / "scan.mine"
            ...  # what the instrument would write of this scan; poor: nothing that is optional
            return path

Needs no pytest to be imported.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from ptycho_torch.data.errors import PtychoTorchError
from ptycho_torch.data.frames import Frames
from ptycho_torch.data.geometry import Geometry
from ptycho_torch.data.readers.reader import Reader
from ptycho_torch.data.readers.registry import read_file
from ptycho_torch.data.readers.scan_file import open_scan_file
from ptycho_torch.data.readers.write_npz import write_scan
from ptycho_torch.data.scan import AnyArray, Scan

M, N, HEIGHT, WIDTH = 24, 16, 44, 37


def example_scan() -> Scan:
    """A far-field scan with everything a file may have: 24 frames of counts, 16 x 16 pixels."""
    rng = np.random.default_rng(11)
    geometry = Geometry.from_energy(8000.0, distance_m=0.5, detector_pixel_m=75e-6)
    rows, columns = np.mgrid[:N, :N] - N // 2
    mean = 3 + 200 * np.exp(-(rows**2 + 2 * columns**2) / 30)
    bad = np.zeros((N, N), bool)
    bad[2, 5] = bad[9, 9] = True
    counts = rng.poisson(mean, (M, N, N)).astype(np.uint16)
    counts[:, bad] = 0
    wave = np.exp(-(rows**2 + columns**2) / 20 + 0.02j * rows**2)
    return Scan(
        xcoords=N / 2 + 2 + rng.random(M) * (WIDTH - N - 4),
        ycoords=N / 2 + 2 + rng.random(M) * (HEIGHT - N - 4),
        frames=Frames.from_array(counts, measurement="counts"),
        probeGuess=(wave * np.sqrt(mean.sum() / np.sum(np.abs(wave) ** 2))).astype(np.complex64),
        objectGuess=np.exp(1j * rng.random((HEIGHT, WIDTH))).astype(np.complex64),
        bad_pixels=bad,
        geometry=geometry,
        frame_photons=mean.sum() * (1 + rng.random(M)),
    )


class ReaderConformance(ABC):
    """Tests of one reader. A subclass sets ``reader`` and writes files; the rest has defaults.

    Attributes
    ----------
    reader
        The :class:`Reader`.
    options
        Reader options without which files of the format cannot be read.
    carries
        Names of what a full file keeps, among ``probeGuess``, ``objectGuess``, ``bad_pixels``,
        ``geometry`` and ``frame_photons``.
    position_tolerance_px
        Largest error of a position; files with metres in float32 have more.
    keeps_origin
        False: a full file does not say what positions count from; they are compared up to a shift.
    """

    reader: ClassVar[Reader]
    options: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    carries: ClassVar[tuple[str, ...]] = ("probeGuess", "bad_pixels", "geometry")
    position_tolerance_px: ClassVar[float] = 1e-9
    keeps_origin: ClassVar[bool] = True

    @abstractmethod
    def write(self, folder: Path, scan: Scan, *, poor: bool) -> Path:
        """Write the scan into an empty folder; poor: only what the format requires.

        Returns
        -------
        path
            The file to open.
        """

    def read(self, path: Path, **options: Any) -> Scan:
        """Read with this reader; a scan without a probe gets the average pattern."""
        given = {"sidecar": "off", **self.options, **options}
        try:
            return read_file(path, self.reader, **given)
        except KeyError:
            return read_file(path, self.reader, **given, probe="initial")

    def test_full_and_poor_files_are_recognised(self, tmp_path: Path) -> None:
        """By name and content."""
        for path in self._both(tmp_path):
            assert path.name.lower().endswith(self.reader.suffixes), path.name
            with open_scan_file(path) as file:
                assert self.reader.recognises(file)

    def test_full_file_is_read_as_written(self, tmp_path: Path) -> None:
        """Frames to the bit, positions to the tolerance, and all that the format carries."""
        truth = example_scan()
        found = self.read(self.write(tmp_path, truth, poor=False))
        self._same_frames(found, truth)
        self._same_positions(found, truth, self.keeps_origin)
        for name in self.carries:
            _same(name, getattr(found, name), getattr(truth, name))

    def test_poor_file_is_read_as_written(self, tmp_path: Path) -> None:
        """Frames, and positions up to a shift."""
        truth = example_scan()
        found = self.read(self.write(tmp_path, truth, poor=True))
        self._same_frames(found, truth)
        self._same_positions(found, truth, keeps_origin=False)

    def test_reading_changes_nothing_in_the_folder(self, tmp_path: Path) -> None:
        """Opening writes nothing, and leaves the file as it was."""
        path = self.write(tmp_path, example_scan(), poor=False)
        before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        self.read(path)
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before

    def test_canonical_copy_is_the_same_scan(self, tmp_path: Path) -> None:
        """What is read can be written, and read back."""
        scan = self.read(self.write(tmp_path, example_scan(), poor=False))
        (folder := tmp_path / "copy").mkdir()
        copy = read_file(write_scan(scan, folder / "scan.npz"))
        assert np.array_equal(_amplitudes(copy), _amplitudes(scan))
        assert np.array_equal(copy.xcoords, scan.xcoords)
        _same("bad_pixels", copy.bad_pixels, scan.bad_pixels)

    def test_measurement_is_an_option_that_counts_are_read_by(self, tmp_path: Path) -> None:
        """Whoever knows better than the format says so."""
        if "measurement" in self.reader.options:
            path = self.write(tmp_path, example_scan(), poor=False)
            assert self.read(path, measurement="amplitude").frames.measurement == "amplitude"

    def test_damaged_files_raise_nothing_but_errors_of_one_line(self, tmp_path: Path) -> None:
        """Cut anywhere, or with bytes changed: read, or refused by a PtychoTorchError."""
        path = self.write(tmp_path, example_scan(), poor=False)
        whole = path.read_bytes()
        for damaged in _damaged(whole):
            path.write_bytes(damaged)
            try:
                _amplitudes(self.read(path))
            except PtychoTorchError as error:
                assert "\n" not in str(error), error

    def test_missing_file_is_named(self, tmp_path: Path) -> None:
        """A FileNotFoundError that says which."""
        path = tmp_path / f"absent{self.reader.suffixes[0]}"
        try:
            self.read(path)
        except FileNotFoundError as error:
            assert "absent" in str(error)
        else:
            raise AssertionError("a missing file was read")

    def _both(self, folder: Path) -> Iterator[Path]:
        for poor in (False, True):
            (inside := folder / f"poor-{poor}").mkdir()
            yield self.write(inside, example_scan(), poor=poor)

    def _same_frames(self, found: Scan, truth: Scan) -> None:
        good = np.ones((N, N), bool) if truth.bad_pixels is None else ~truth.bad_pixels
        assert np.allclose(_amplitudes(found)[:, good], _amplitudes(truth)[:, good], atol=1e-6)

    def _same_positions(self, found: Scan, truth: Scan, keeps_origin: bool) -> None:
        for axis in ("xcoords", "ycoords"):
            off = getattr(found, axis) - getattr(truth, axis)
            off = off if keeps_origin else off - off.mean()
            assert np.abs(off).max() <= self.position_tolerance_px, axis


def _amplitudes(scan: Scan) -> AnyArray:
    return scan.frames.take(scan.file_indices(np.arange(len(scan))))


def _same(name: str, found: Any, truth: Any) -> None:
    if isinstance(truth, Geometry):
        found, truth = (list(geometry.known().values()) for geometry in (found, truth))
    assert (found is None) == (truth is None), name
    if found is not None:
        assert np.allclose(found, truth, rtol=1e-6), name


def _damaged(whole: bytes) -> Iterator[bytes]:
    rng = np.random.default_rng(3)
    for share in (0.0, 0.1, 0.5, 0.9, 0.999):
        yield whole[: int(len(whole) * share)]
    for _ in range(25):
        changed = bytearray(whole)
        for place in rng.integers(0, min(len(whole), 4096), 4):
            changed[place] = int(rng.integers(256))
        yield bytes(changed)
