"""One LightningModule per stage, and what fits them one after the other."""
