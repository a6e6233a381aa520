"""How learning rates fall over a fit.

Owns the schedules and their names. Knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

import lightning.pytorch as pl
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ptycho_torch.data.errors import OptionError

Schedule = Literal["constant", "cosine", "stages"]

STAGES = ((0.5, 1.0), (0.8, 0.3), (math.inf, 0.1))
"""Before which share of the steps a stage ends, and its factor of the learning rate."""


def scheduled(optimizer: Optimizer, schedule: Schedule, model: pl.LightningModule) -> Any:
    """What ``configure_optimizers`` returns: the optimiser, its rates changed at every step.

    Parameters
    ----------
    optimizer
        Its rates are those of the first step.
    schedule
        ``"constant"``; ``"cosine"``: to 0 at the last step; ``"stages"``: as ``STAGES`` says.
    model
        Knows how many steps there will be.

    Raises
    ------
    OptionError
        The fit has no end, and the schedule needs one.
    """
    if schedule == "constant":
        return optimizer
    steps = model.trainer.estimated_stepping_batches
    if not math.isfinite(steps):
        found = f"{schedule!r} in a fit without end"
        raise OptionError("schedule", found, "max_epochs or max_steps")
    factor = _FACTORS[schedule]
    rates = LambdaLR(optimizer, lambda step: factor(min(1.0, step / steps)))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rates, "interval": "step"}}


def _cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))


def _stages(share: float) -> float:
    return next(factor for until, factor in STAGES if share < until)


_FACTORS: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {"cosine": _cosine, "stages": _stages}
)
assert {"constant", *_FACTORS} == set(get_args(Schedule))
