"""Checkpoints files from state dicts that other programs saved."""
