"""The classifier, and the ways to collect checkpoints from its training."""
