"""A network of one's own: it turns each frame into the patch of the object behind it.

It learns from the frames themselves. Its patches are lit by the scan's probe and diffracted, and
what comes out is compared with what was measured.
"""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from ptycho_torch import PtychoBatch
from ptycho_torch.physics import diffract, illuminate


class OwnModel(pl.LightningModule):
    """Convolutions between a frame and its patch; change what you like.

    Parameters
    ----------
    width
        Channels of the hidden layers.
    learning_rate
        Step of Adam.
    """

    def __init__(self, width: int = 32, learning_rate: float = 2e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        self.network = nn.Sequential(
            nn.Conv2d(2, width, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, width, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, 2, 5, padding=2),
        )

    def patches(self, batch: PtychoBatch) -> Tensor:
        """Patches (B, C, N, N), complex64: C frames in each of B groups, N pixels a side."""
        # Each frame goes back to the sample with the phase of the probe's own far field.
        amplitude = batch.channels_first() / batch.scale.view(-1, 1, 1, 1)
        mode = batch.probe[:, :1]
        waves = torch.fft.ifftshift(amplitude, dim=(-2, -1))
        waves = waves * torch.sgn(torch.fft.fft2(mode))
        exit_waves = torch.fft.ifft2(waves, norm="ortho")
        light = mode.abs().square()
        first = exit_waves * mode.conj() / (light + 0.05 * light.amax(dim=(-2, -1), keepdim=True))
        images = torch.stack([first.real, first.imag], dim=2).flatten(0, 1)
        real, imag = self.network(images).unflatten(0, amplitude.shape[:2]).unbind(dim=2)
        return torch.complex(1 + real, imag)

    def loss(self, batch: PtychoBatch) -> Tensor:
        """Mean squared difference between modelled and measured amplitudes; a scalar."""
        frames = diffract(illuminate(batch.probe, self.patches(batch)))
        frames = frames * batch.scale.view(-1, 1, 1, 1)
        if batch.bad_pixels is not None:  # they are 0 in X
            frames = frames.masked_fill(batch.bad_pixels[:, None], 0)
        return (frames - batch.channels_first()).square().mean()

    def training_step(self, batch: PtychoBatch, batch_idx: int) -> Tensor:
        """The loss of a batch of training groups."""
        return self.loss(batch)

    def validation_step(self, batch: PtychoBatch, batch_idx: int) -> None:
        """Log the loss of groups whose frames the network has not seen."""
        self.log("val_loss", self.loss(batch), batch_size=len(batch.X), prog_bar=True)

    def predict_step(self, batch: PtychoBatch, batch_idx: int) -> dict[str, Tensor]:
        """Patches and their positions (B, C, 2), (x, y) in pixels: they are stitched."""
        return {"patches": self.patches(batch), "positions_px": batch.positions}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), self.learning_rate)
