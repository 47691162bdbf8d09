"""Training of p-diff: one LightningModule per stage, and the function that fits both stages in order."""
