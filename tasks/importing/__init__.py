"""Checkpoints files from state dicts of other programs."""
