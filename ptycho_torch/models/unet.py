"""A U-Net: images in, images of the same size out.

Owns the network's layers, and batch normalisation that is the same on one process and on many.
Knows no ptychography.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn import functional as collectives
from torch.nn import functional

WIDEST = 8
"""Channels of the deepest levels, in widths: more of them learn no better here."""


class UNet(nn.Module):
    """Convolutions at ``depth`` sizes of image, each half of the one before, and back with skips.

    The last layer starts at zero, so the output of a new network is 0 everywhere. O. Ronneberger,
    P. Fischer, T. Brox, MICCAI 2015, 234, doi:10.1007/978-3-319-24574-4_28.

    Parameters
    ----------
    inputs, outputs
        Channels.
    width
        Channels at full size; they double at every size, up to ``WIDEST`` times.
    depth
        Number of sizes; sides of images have to be multiples of ``2 ** (depth - 1)``.
    """

    def __init__(self, inputs: int, outputs: int, width: int, depth: int) -> None:
        super().__init__()
        widths = [width * min(2**level, WIDEST) for level in range(depth)]
        above = [inputs, *widths[:-1]]
        self.down = nn.ModuleList(_block(*pair) for pair in zip(above, widths, strict=True))
        self.up = nn.ModuleList(
            _block(below + here, here)
            for below, here in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(width, outputs, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(cast("Tensor", self.head.bias))
        # torch's annotations of Module.to leave this keyword out.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, inputs, N, N) to (n, outputs, N, N)."""
        skips: list[Tensor] = []
        for block in self.down:
            if skips:
                images = functional.max_pool2d(images, 2)
            images = block(images)
            skips.append(images)
        skips.pop()
        for block in self.up:
            larger = functional.interpolate(images, scale_factor=2.0, mode="nearest")
            images = block(torch.cat([larger, skips.pop()], dim=1))
        result: Tensor = self.head(images)
        return result


def _block(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        # The normalisation has a shift of its own.
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False)]
        layers += [JointBatchNorm(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class JointBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the batches of all ranks: theirs is one batch in several parts.

    torch's own SyncBatchNorm does this on GPUs only.
    """

    def forward(self, values: Tensor) -> Tensor:
        """Values (n, channels, N, N), normalised per channel over all ranks while training."""
        ranks = distributed.get_world_size() if distributed.is_initialized() else 1
        if not self.training or ranks == 1:
            return super().forward(values)
        # Sums of 16 bits would lose the mean; a Trainer's 64 stay 64.
        wide = values.to(torch.promote_types(values.dtype, torch.float32))
        sums = torch.stack([wide.sum((0, 2, 3)), wide.square().sum((0, 2, 3))])
        count = torch.full_like(sums[:1], values.numel() / values.shape[1])
        parts = torch.cat([sums, count])
        total: Tensor = collectives.all_reduce(parts)  # type: ignore[no-untyped-call]
        count = total[2].detach()
        mean = total[0] / count
        variance = (total[1] / count - mean.square()).clamp_min(0)
        self._follow(mean.detach(), variance.detach() * count / (count - 1).clamp_min(1))
        factor = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * factor
        shape = (1, -1, 1, 1)
        return (values * factor.view(shape) + shift.view(shape)).to(values.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, with which the network predicts."""
        with torch.no_grad():
            cast("Tensor", self.num_batches_tracked).add_(1)
            for running, now in ((self.running_mean, mean), (self.running_var, variance)):
                cast("Any", running).lerp_(
                    now.to(cast("Any", running).dtype), cast("float", self.momentum)
                )
