"""Foundations shared by all stages: run directories, files, seeds, the Trainer and user errors."""
