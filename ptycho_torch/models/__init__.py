"""Models that consume batches: what a LightningModule of yours can be written after."""
