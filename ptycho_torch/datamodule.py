"""PtychoDataModule: the one LightningDataModule.

Wires scans, split, routes, loaders and devices together; every piece of work is done by a room
below.
"""

from __future__ import annotations

from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor

from ptycho_torch.batches.augmentation import Augmentation, augmented
from ptycho_torch.batches.batch import PtychoBatch
from ptycho_torch.batches.dataset import PtychoDataset
from ptycho_torch.batches.dataset_split import Split, split_dataset
from ptycho_torch.batches.epoch_order import Order
from ptycho_torch.batches.hyperparameters import options_of, plain_options
from ptycho_torch.batches.loader import GroupLoader
from ptycho_torch.batches.place import groups_of, require_same_groups, require_same_order
from ptycho_torch.batches.progress import EpochProgress
from ptycho_torch.batches.representations import MODULE
from ptycho_torch.batches.residency import DeviceCopies, Residency
from ptycho_torch.batches.route_choice import AssembleOn, route_of
from ptycho_torch.batches.sampler import EpochSampler
from ptycho_torch.batches.scans import object_shape
from ptycho_torch.batches.selection import FrameSelection
from ptycho_torch.batches.sending import Parcel, dtype_of_X, require_float64, sent
from ptycho_torch.batches.simulated_scans import ScanOption, opened
from ptycho_torch.data.caches.names import check_policy
from ptycho_torch.data.config import (
    GroundTruth,
    GroupingConfig,
    Measurement,
    Normalization,
    PatchPositions,
    check_choice,
    check_integer,
    check_seed,
)
from ptycho_torch.data.errors import OptionError, OptionTypeError
from ptycho_torch.data.scan_list import Part, parts_named
from ptycho_torch.data.split import check_fractions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Stage = Literal["train", "val", "test", "predict"]

_EVALUATED: tuple[Part, ...] = ("val", "test")
_NEEDED = MappingProxyType[str, tuple[Stage, ...]](
    {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}
)


class PtychoDataModule(LightningDataModule):
    """Batches of grouped diffraction frames for a Lightning Trainer, or for a plain loop.

    Parameters
    ----------
    train
        Scans to train on: a path, pattern, directory, list in YAML, or several of these; from
        Python also :class:`~ptycho_torch.RawData` or :class:`~ptycho_torch.SimulatedScans`.
    val, test, predict
        Scans for the other stages. Without ``val``, validation groups are split off ``train``;
        with ``test_fraction`` so are test groups. Otherwise, without ``test`` testing uses the
        validation groups, and without ``predict`` prediction uses all groups of ``train``.
    batch_size
        Groups in a batch, on each rank.
    num_workers
        Worker processes of each loader.
    grouping
        How positions become groups; a mapping of its fields, as checkpoints hold it, will do.
    split
        How validation and test are split off: ``"region"`` (strips at one end of each scan; groups
        across their borders are dropped), ``"frames"`` (frames drawn at random, each part grouped
        on its own), ``"scans"`` (whole scans, drawn unless a list names them) or ``"none"``:
        validate on the training groups. The first three share no frame.
    val_fraction
        Share of the frames for validation; 0: validate on the training groups.
    test_fraction
        Share of the frames for a test part of ``train``; 0: no such part.
    seed
        Seed of the order of training samples and of the split.
    ground_truth, patch_positions, measurement, probe, cache, normalization, N
        As in :class:`~ptycho_torch.PtychoDataset`.
    assemble_on
        Where batches are gathered and scaled: ``"worker"`` (by the worker processes),
        ``"device"`` (the loader hands over each frame once; the batch's device does the rest), or
        ``"auto"``: on the device where a Trainer runs on a GPU, else by a thread of this process,
        one batch ahead, while workers read frames from disk. The numbers are the same.
    residency
        Under a Trainer on a GPU: ``"device"`` keeps all frames in its memory, ``"host"`` sends
        those of each batch, ``"auto"`` keeps them where they fit in half of the free memory.
    prepare_data_per_node
        Lightning's switch: group and cache once per node, or once for all nodes.
    shuffle
        Visit training samples in a new order every epoch.
    order
        What an order draws: ``"samples"``, or ``"blocks"`` of neighbours, for large scans.
    augmentation
        Changes of training batches, on the batch's device; a mapping will do; None: none.
    multiprocessing_context
        Start method of the workers; None: the system's default.

    Raises
    ------
    OptionError, OptionTypeError
        An option cannot work, or contradicts another.

    Examples
    --------
    >>> from ptycho_torch import PtychoDataModule, simulate_scan
    >>> scan = simulate_scan(n_frames=64, N=32, seed=1)
    >>> data = PtychoDataModule(scan, batch_size=8, patch_positions="scan")
    >>> data.setup("fit")
    >>> next(iter(data.train_dataloader())).X.shape
    torch.Size([8, 32, 32, 4])
    """

    def __init__(
        self,
        train: ScanOption,
        *,
        val: ScanOption | None = None,
        test: ScanOption | None = None,
        predict: ScanOption | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        grouping: GroupingConfig | None = None,
        split: Split = "region",
        val_fraction: float = 0.1,
        test_fraction: float = 0.0,
        seed: int = 0,
        N: int | None = None,
        ground_truth: GroundTruth = "auto",
        patch_positions: PatchPositions = "reference",
        measurement: Measurement = "auto",
        probe: str = "file",
        cache: str = "auto",
        normalization: Normalization = "scan",
        assemble_on: AssembleOn = "auto",
        residency: Residency = "auto",
        prepare_data_per_node: bool = True,
        shuffle: bool = True,
        order: Order = "samples",
        augmentation: Augmentation | None = None,
        multiprocessing_context: Literal["fork", "spawn", "forkserver"] | None = None,
    ) -> None:
        given: dict[str, Any] = locals()
        super().__init__()
        # Without the logger: a model may have options of the same names.
        self.save_hyperparameters(plain_options(given), logger=False)
        check_integer("batch_size", batch_size, minimum=1)
        check_integer("num_workers", num_workers, minimum=0)
        if check_seed("seed", seed) is None:
            raise OptionError("seed", None, "an integer: it fixes order and split")
        check_choice("split", split, Split)
        check_choice("assemble_on", assemble_on, AssembleOn)
        check_choice("residency", residency, Residency)
        check_choice("order", order, Order)
        check_policy(cache, "cache")
        if train is None:
            raise OptionTypeError("train", None, "a path, a pattern, a RawData or a list")
        check_fractions((val_fraction,))
        check_fractions((test_fraction,))
        if test_fraction and (test is not None or split == "none"):
            other = "split='none'" if test is None else "scans for test"
            raise OptionError(
                f"test_fraction={test_fraction} cannot be combined with {other}. "
                "Leave out one of the two."
            )
        every = (train, val, test, predict)
        self.scans: dict[Stage, ScanOption | None] = dict(zip(get_args(Stage), every, strict=True))
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.grouping = options_of(GroupingConfig, "grouping", grouping or GroupingConfig())
        self.augmentation = augmentation and options_of(Augmentation, "augmentation", augmentation)
        self.split: Split = split
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        check_fractions(tuple(self._shares().values()))
        self.seed = seed
        self.assemble_on: AssembleOn = assemble_on
        self.residency: Residency = residency
        self.prepare_data_per_node = prepare_data_per_node
        self.shuffle = shuffle
        self.order: Order = order
        self.multiprocessing_context = multiprocessing_context
        of_datasets = "N ground_truth patch_positions measurement probe cache normalization"
        self._dataset_options = {name: given[name] for name in of_datasets.split()}
        self._datasets: dict[Stage, PtychoDataset] = {}
        self._progress = EpochProgress()
        self._copies = DeviceCopies()

    @property
    def N(self) -> int:
        """Pixels along a frame's side."""
        return self.dataset("train").N

    @property
    def object_shape(self) -> tuple[int, int]:
        """(H, W) in pixels of an object that holds every patch of every training scan."""
        return object_shape(self.dataset("train").scans)

    @property
    def initial_probe(self) -> Tensor:
        """Probe modes of the first training scan, complex64, (P, N, N)."""
        return self.dataset("train").tables.probes[0].clone()

    def __repr__(self) -> str:
        return MODULE.text(self)

    def _repr_html_(self) -> str:
        return MODULE.html(self)

    # Lightning's own builds the loaders, which starts an epoch.
    __str__ = __repr__

    def plot(self, batch: PtychoBatch, *, group: int = 0) -> Figure:
        """Draw a batch and one of its groups, as :func:`ptycho_torch.plot` does."""
        from ptycho_torch.results.batch_figure import plot

        return plot(batch, group=group)

    def dataset(self, stage: Stage) -> PtychoDataset:
        """The dataset of a stage: ``"train"``, ``"val"``, ``"test"`` or ``"predict"``."""
        check_choice("stage", stage, Stage)
        if stage not in self._datasets:
            self._build(stage)
        return self._datasets[stage]

    def prepare_data(self) -> None:
        """Group every scan and write its caches, in one process."""
        for dataset in [self._open(scans) for scans in self.scans.values() if scans is not None]:
            dataset.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Open the scans that a function of the Trainer needs.

        Parameters
        ----------
        stage
            ``"fit"``, ``"validate"``, ``"test"``, ``"predict"``; None: every stage that has scans.
        """
        if stage is not None and stage not in _NEEDED:
            raise OptionError("stage", repr(stage), f"None or one of {', '.join(_NEEDED)}")
        with_scans = tuple(each for each, scans in self.scans.items() if scans is not None)
        for each in with_scans if stage is None else _NEEDED[stage]:
            self.dataset(each)

    def train_dataloader(self) -> GroupLoader:
        """Shuffled batches; every rank takes equally many steps."""
        loader = self._loader("train")
        if self._progress.restored is not None:
            require_same_groups(self._progress.restored, self.dataset("train"))
        self._progress.start(self.trainer, loader)
        return loader

    def val_dataloader(self) -> GroupLoader:
        """Every validation group exactly once."""
        return self._loader("val")

    def test_dataloader(self) -> GroupLoader:
        """Every test group exactly once."""
        return self._loader("test")

    def predict_dataloader(self) -> GroupLoader:
        """Every group exactly once, in order."""
        return self._loader("predict")

    def state_dict(self) -> dict[str, Any]:
        """Say where training stands: which order, epoch, and samples all ranks consumed in it."""
        if self._progress.restored is not None or "train" not in self._datasets:
            return dict(self._progress.restored or {})
        groups = groups_of(self.dataset("train"))
        return {**self._drawn(), **groups, **self._progress.state(self.trainer)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint stood, with any number of workers, ranks and any batch size.

        Raises
        ------
        OptionError
            Seed, shuffling or order differ. :meth:`train_dataloader` refuses other training groups.
        """
        # Version 0.2.0 knew one order.
        saved = {"order": "samples", **state_dict} if state_dict else {}
        require_same_order(saved, self._drawn())
        self._progress.restored = state_dict

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Open a parcel and finish what is in it; copy anything else, as Lightning does."""
        batch = batch.opened() if isinstance(batch, Parcel) else batch
        if isinstance(batch, PtychoBatch) and batch.X.device == device:
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Assemble on its device what a loader without a Trainer handed over unassembled."""
        if not isinstance(batch, FrameSelection):
            return batch
        return self._finished(batch, batch.stage, batch.inverse.device)

    def teardown(self, stage: str) -> None:
        """Give the memory of devices back."""
        self._copies.release()

    def _open(self, scans: ScanOption) -> PtychoDataset:
        return opened(scans, grouping=self.grouping, **self._dataset_options)

    def _shares(self) -> dict[Part, float]:
        """Shares of the frames of ``train`` that are split off for stages without scans."""
        if self.split == "none":
            return {}
        wanted: dict[Part, float] = {"val": self.val_fraction, "test": self.test_fraction}
        return {part: share for part, share in wanted.items() if share and self.scans[part] is None}

    def _build(self, stage: Stage) -> None:
        train = cast("ScanOption", self.scans["train"])
        scans = train if stage == "predict" and self.scans[stage] is None else self.scans[stage]
        shares = {**dict.fromkeys(parts_named(train), 0.0), **self._shares()}
        if stage == "train" or (stage in shares and scans is None):
            own = [part for part in _EVALUATED if self.scans[part] is not None]
            parts = split_dataset(self._open(train), self.split, self._shares(), self.seed, own)
            self._datasets |= cast("dict[Stage, PtychoDataset]", parts)
        elif scans is not None:
            self._datasets[stage] = self._open(scans)
        else:
            self._datasets.setdefault(stage, self.dataset("train" if stage == "val" else "val"))

    def _loader(self, stage: Stage) -> GroupLoader:
        dataset, device = self.dataset(stage), self._device()
        _ = len(dataset)  # workers inherit the groups instead of making them again
        trainer, one = self.trainer, {"num_replicas": 1, "rank": 0}
        sampler = EpochSampler(
            dataset,
            **({} if trainer is None else trainer.distributed_sampler_kwargs or one),
            shuffle=self._shuffles() and stage == "train",
            seed=self.seed,
            even=stage == "train",
            blocks=dataset.blocks() if self.order == "blocks" else None,
        )
        resident = partial(self._copies.holds, dataset, device, self.residency)
        workers = self.num_workers > 0
        route = route_of(dataset, stage, device, self.assemble_on, resident, workers=workers)
        if self.augmentation is not None and stage == "train":
            self.augmentation.check(dataset.scans, dataset.index.scales)
            if device.type != "cuda":
                route = route.then(partial(augmented, self.augmentation, sampler))
        dtype = dtype_of_X(self._trainer_at_work)
        if device.type == "cuda" or dtype != torch.float32:
            finish = partial(self._finished, stage=stage, device=device, dtype=dtype)
            route = route.then(partial(sent, finish=finish, device=device))
        return GroupLoader(
            route.source,
            finish=route.finish,
            passes_indices=route.passes_indices,
            check_files=dataset.check_unchanged,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            pin_memory=device.type == "cuda" and not route.passes_indices,
            persistent_workers=self.num_workers > 0,
            multiprocessing_context=self.multiprocessing_context if self.num_workers else None,
        )

    def _finished(
        self, batch: Any, stage: str, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> PtychoBatch:
        # On the CPU, what the loader gives finished is changed there.
        finished = self._copies.finished(batch, self.dataset(cast("Stage", stage)), device)
        here = isinstance(batch, FrameSelection) or device.type == "cuda"
        if self.augmentation is not None and stage == "train" and here:
            finished = self.augmentation(finished, self._progress.epoch)
        return finished if dtype == torch.float32 else finished.to(dtype)

    def _drawn(self) -> dict[str, Any]:
        return {"seed": self.seed, "shuffle": self._shuffles(), "order": self.order}

    def _shuffles(self) -> bool:
        """Whether training visits its samples in a new order every epoch."""
        return self.shuffle and not getattr(self.trainer, "overfit_batches", 0)

    @property
    def _trainer_at_work(self) -> Trainer | None:
        """The Trainer, until its run has ended: then a plain loop takes the batches."""
        return None if self.trainer and self.trainer.state.status.stopped else self.trainer

    def _device(self) -> torch.device:
        trainer = self._trainer_at_work
        device = torch.device("cpu") if trainer is None else trainer.strategy.root_device
        require_float64(device)
        return device
