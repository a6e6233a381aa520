"""SimulatedScans: scans of specimens and probes that no file holds, made where the model is.

Owns which scan, group and noise a number stands for, and the forward model of a batch. What scans
are drawn of is ``simulation.recipe``'s. Knows no trainers or workers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict

from ptycho_torch.batches.batch import PtychoBatch
from ptycho_torch.batches.blocks import Blocks
from ptycho_torch.batches.buffers import BufferPool
from ptycho_torch.batches.dataset import PLANNED, PtychoDataset
from ptycho_torch.batches.frame_bank import FrameBank
from ptycho_torch.batches.representations import SIMULATED
from ptycho_torch.batches.simulated_groups import Noise, SimulatedScan, simulate_groups
from ptycho_torch.data.caches.scan_groups import drawn_groups
from ptycho_torch.data.config import GroupingConfig, check_integer, check_seed
from ptycho_torch.data.errors import OptionError, OptionTypeError
from ptycho_torch.data.normalization import intensity_scale
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.data.scan_list import Part, Scans
from ptycho_torch.simulation.recipe import Photons, ScanRecipe, Sources
from ptycho_torch.simulation.scan import ScanPattern
from ptycho_torch.simulation.specimens import Specimen

Indices = Sequence[int] | NDArray[np.integer]

_STREAMS: tuple[Part, ...] = ("train", "val", "test")
_COUNTS = 0
_AXES = ("xcoords", "ycoords")
_FRAMES_AT_A_TIME = 64


class SimulatedScans(PtychoDataset):
    """Endless simulated scans to train on: specimens x probes, drawn anew in every epoch.

    ``PtychoDataModule(train=SimulatedScans(...))`` trains on it; without ``val``, validation and
    test groups are those of other scans drawn alike, the same in every epoch.

    An epoch has ``n_scans`` scans, each with a specimen, a probe, positions and photons of its own.
    Sample ``i + e * len(dataset)`` of ``__getitems__`` is sample i of epoch e, so that every number
    stands for the same group with the same noise, whatever the batch size, the workers or the
    place where a run resumes. ``dataset[i]`` has the samples of epoch 0. In a plain loop,
    ``loader.sampler.set_epoch(e)`` asks for those of another.

    Batches are like those of the same scans read from files with ``patch_positions="scan"``: X, Y,
    positions, probe and indices. Only the X scale is that of the expected counts, not of the noisy
    ones. A frame has the same noise in all groups of an epoch. Objects and probes of two epochs are
    kept at most.

    Parameters
    ----------
    specimens
        Names of :func:`~ptycho_torch.simulation.specimens.draw_specimen`, of which every scan
        draws one. ``"mixed"`` has stars and words in it: name others to be judged by a star.
    objects
        Objects instead of specimens: complex arrays (H, W), or scans or their paths for their
        ``objectGuess``. Every scan takes a part of one, drawn.
    probes
        What every scan draws its probe from: ``"random"`` (lenses of any aperture, defocus and
        astigmatism), arrays (N, N) or (P, N, N), scans or their paths, or several of these.
    n_scans
        Scans in an epoch.
    frames_per_scan
        Frames of each, M.
    N
        Pixels along a frame's side.
    grouping
        How positions become groups; None: as the data module says, or the defaults. Where it finds
        fewer groups in a scan than in the first of epoch 0, some come twice; where more, some stay
        away.
    pattern
        How positions lie: ``"jittered_raster"``, ``"raster"``, ``"fermat"`` or ``"random"``.
    photons
        Mean counts per frame: a number, or (low, high), log-uniform per scan. X are then square
        roots of Poisson numbers, scaled. None: no noise.
    n_modes
        Incoherent modes of random probes.
    seed
        Seed of all draws.

    Raises
    ------
    OptionError, OptionTypeError
        An option cannot work, or contradicts another.
    ScanError, ScanKeyError, ScanFileError, ScanFileNotFoundError
        A scan named for its object or probe is at fault.

    Examples
    --------
    >>> from ptycho_torch import PtychoDataModule, SimulatedScans
    >>> scans = SimulatedScans(specimens=["cells", "grf"], n_scans=4, frames_per_scan=36, N=32)
    >>> data = PtychoDataModule(scans, batch_size=8)
    >>> batch = next(iter(data.train_dataloader()))
    >>> len(scans), batch.X.shape, batch.Y.shape
    (144, torch.Size([8, 32, 32, 4]), torch.Size([8, 32, 32, 4]))
    """

    def __init__(
        self,
        *,
        specimens: Specimen | Sequence[Specimen] = "mixed",
        objects: Sources | None = None,
        probes: Sources = "random",
        n_scans: int = 64,
        frames_per_scan: int = 100,
        N: int = 64,
        grouping: GroupingConfig | None = None,
        pattern: ScanPattern = "jittered_raster",
        photons: Photons = 1e5,
        n_modes: int = 1,
        seed: int = 0,
    ) -> None:
        check_integer("n_scans", n_scans, minimum=1)
        if check_seed("seed", seed) is None:
            raise OptionTypeError("seed", None, "an integer")
        self.recipe = ScanRecipe(
            specimens=specimens,
            objects=objects,
            probes=probes,
            frames_per_scan=frames_per_scan,
            N=N,
            pattern=pattern,
            photons=photons,
            n_modes=n_modes,
        )
        self.n_scans, self.seed, self.stream = n_scans, seed, 0
        self.ground_truth, self.patch_positions = "object", "scan"
        self.normalization, self.cache = "scan", "off"
        self._given_grouping = grouping
        self._group(grouping or GroupingConfig())

    def _group(self, grouping: GroupingConfig) -> None:
        for name, unable in (("n_subsample", None), ("strategy", "sample_then_group")):
            if getattr(grouping, name) != unable:
                raise OptionError(f"grouping.{name}", getattr(grouping, name), unable)
        self.grouping = grouping
        first = self.recipe.draw(self.seed, self.stream, 0, 0)
        self.groups_per_scan = len(drawn_groups(first.xcoords, first.ycoords, grouping))
        self._start()

    def _start(self) -> None:
        """Begin with no scans drawn."""
        self._scan = lru_cache(maxsize=2 * self.n_scans)(self._drawn)
        self._index = self._tables = self._labels = None
        self._pool = BufferPool()

    @property
    def N(self) -> int:
        """Pixels along a frame's side."""
        return self.recipe.N

    @property
    def is_grouped(self) -> bool:
        """Always: what is not drawn yet has as many groups."""
        return True

    @property
    def goes_on(self) -> bool:
        """Samples from ``len`` on are those of the epochs after the first."""
        return True

    def __len__(self) -> int:
        return self.n_scans * self.groups_per_scan

    def prepare(self) -> None:
        """Do nothing: there is nothing to keep."""

    def for_grouping(self, grouping: GroupingConfig) -> SimulatedScans:
        """The same scans grouped as the data module says.

        Raises
        ------
        OptionError
            They have a grouping already, and another.
        """
        if self._given_grouping not in (None, grouping):
            expected = "left out, or that of the data module"
            raise OptionError("grouping of SimulatedScans", self._given_grouping, expected)
        other = copy.copy(self)
        other._group(grouping)
        return other

    def parts(self, shares: Mapping[Part, float]) -> dict[Part, PtychoDataset]:
        """These scans for training, and for every part so many others, never seen in training."""
        parts: dict[Part, PtychoDataset] = {"train": self}
        for part, share in shares.items():
            other = copy.copy(self)
            other.n_scans = max(1, round(share * self.n_scans))
            other.stream = _STREAMS.index(part)
            other._start()
            parts[part] = other
        return parts

    def described(self) -> str:
        """All that decides which samples there are, in a line."""
        told = (self.seed, self.stream, self.n_scans, self.groups_per_scan, self.grouping)
        return f"{told} {self.recipe.described()}"

    def blocks(self) -> Blocks:
        """Refuse: nothing lies on a disk."""
        raise OptionError("order", "'blocks'", "'samples', for scans that no file holds")

    def check_unchanged(self, groups: Indices | None = None) -> bool:
        """Nothing that was read, so that nothing changed."""
        return False

    def __getitems__(self, indices: Indices) -> PtychoBatch:
        """A batch of groups of any epochs, by numbers >= 0, (B,)."""
        return self.simulated(indices)

    def batches(
        self, groups: Iterable[Sequence[int]], planned: int = PLANNED
    ) -> Iterator[PtychoBatch]:
        """Yield batch after batch; ``planned`` has no effect here."""
        return map(self.simulated, groups)

    def unmade(self, indices: Indices) -> UnmadeBatch:
        """A batch that is made when it is asked to go to its device."""
        return UnmadeBatch(self, indices)

    def simulated(self, indices: Indices, device: torch.device | str = "cpu") -> PtychoBatch:
        """A batch of groups of any epochs, made on a device.

        Parameters
        ----------
        indices
            Numbers >= 0, (B,): group i of epoch e is ``i + e * len(self)``.
        device
            Where.

        Raises
        ------
        IndexError
            A number is below 0.
        """
        numbers = np.asarray(indices, dtype=np.int64)
        if numbers.size and numbers.min() < 0:
            raise IndexError(f"sample {numbers.min()}; expected numbers from 0 on")
        scan_numbers, group = np.divmod(numbers, self.groups_per_scan)
        drawn, place = np.unique(scan_numbers, return_inverse=True)
        scans = [self._scan(number) for number in drawn.tolist()]
        groups = [scans[at].groups[row] for at, row in zip(place, group, strict=True)]
        content = simulate_groups(scans, place, np.stack(groups), self._noise(scan_numbers), device)
        content["scan_id"] = torch.from_numpy(scan_numbers % self.n_scans).to(device)
        return PtychoBatch.from_tensordict(TensorDict(content, batch_size=[len(numbers)]))

    def scan(self, number: int, epoch: int = 0) -> RawData:
        """One scan of an epoch with all its frames, the very ones that batches have.

        Parameters
        ----------
        number
            Which of the ``n_scans``.
        epoch
            Of which epoch.
        """
        check_integer("number", number, minimum=0, limit=self.n_scans)
        check_integer("epoch", epoch, minimum=0)
        scan_number = epoch * self.n_scans + number
        scan, M = self._scan(scan_number), self.recipe.frames_per_scan
        unscaled = replace(scan, scale=np.float32(1))
        frames = np.empty((M, self.N, self.N), np.float32)
        for start in range(0, M, _FRAMES_AT_A_TIME):
            rows = np.arange(start, min(M, start + _FRAMES_AT_A_TIME))
            place, noise = np.zeros_like(rows), self._noise(np.full_like(rows, scan_number))
            amplitude = simulate_groups([unscaled], place, rows[:, None], noise, "cpu")["X"]
            frames[rows] = amplitude[..., 0].numpy()
        probe = scan.probe.numpy()
        x, y = scan.xcoords, scan.ycoords
        metadata = {"generator": "ptycho_torch.SimulatedScans", "epoch": epoch, "scan": number}
        return RawData(
            x,
            y,
            x,
            y,
            frames,
            probe[0] if len(probe) == 1 else probe,
            np.zeros(M, np.int64),
            objectGuess=scan.object.numpy(),
            metadata=metadata,
        )

    @cached_property
    def scans(self) -> tuple[RawData, ...]:  # type: ignore[override]
        """The scans of epoch 0, with all their frames in memory: made when first asked for."""
        return tuple(map(self.scan, range(self.n_scans)))

    @property
    def measured(self) -> tuple[RawData, ...]:
        """None: what is drawn needs no look, and its frames wait for their batches."""
        return ()

    @cached_property
    def bank(self) -> FrameBank:  # type: ignore[override]
        """The frames of epoch 0."""
        return FrameBank([scan.frames for scan in self.scans])

    def __getstate__(self) -> dict[str, Any]:
        """Leave what was drawn behind: a copy, or another process, draws it again."""
        kept = dict(self.__dict__)
        for name in ("_scan", "_pool", "scans", "bank", "frameless_tables"):
            kept.pop(name, None)
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def __repr__(self) -> str:
        return SIMULATED.text(self)

    def _repr_html_(self) -> str:
        return SIMULATED.html(self)

    def _but(self, **changes: object) -> PtychoDataset:
        """A part of epoch 0, as a dataset of scans in memory."""
        whole = PtychoDataset(
            self.scans, grouping=self.grouping, patch_positions="scan", cache="off"
        )
        return whole._but(**changes)

    def _noise(self, scan_numbers: NDArray[np.int64]) -> Noise | None:
        return Noise(self.seed, self.stream, scan_numbers) if self.recipe.has_noise else None

    def _drawn(self, scan_number: int) -> SimulatedScan:
        epoch, number = divmod(scan_number, self.n_scans)
        drawn = self.recipe.draw(self.seed, self.stream, epoch, number)
        groups = drawn_groups(drawn.xcoords, drawn.ycoords, self.grouping)
        groups = np.resize(groups, (self.groups_per_scan, groups.shape[1]))
        return SimulatedScan(
            torch.from_numpy(np.array(drawn.object)),
            torch.from_numpy(drawn.probe),
            drawn.xcoords,
            drawn.ycoords,
            groups.astype(np.int64),
            intensity_scale([drawn.energies[groups]], self.N),
        )


if TYPE_CHECKING:
    ScanOption = Scans | SimulatedScans
else:
    # The command line makes its options of annotations, and can say only this.
    ScanOption = str | list[str] | SimulatedScans


@dataclass(frozen=True)
class UnmadeBatch:
    """Samples of a dataset; ``to(device)`` makes their batch there, on the stream at work."""

    dataset: SimulatedScans
    indices: Indices

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PtychoBatch:
        """The batch; ``non_blocking`` is what others take."""
        return self.dataset.simulated(self.indices, device)


def opened(
    scans: ScanOption, grouping: GroupingConfig, N: int | None, **options: Any
) -> PtychoDataset:
    """A data module's scans as a dataset: those of files, or those that are simulated."""
    if not isinstance(scans, SimulatedScans):
        return PtychoDataset(scans, grouping=grouping, N=N, **options)
    if N not in (None, scans.N):
        raise OptionError("N", N, f"{scans.N}, that of SimulatedScans")
    return scans.for_grouping(grouping)
