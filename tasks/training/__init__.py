"""Carrying out a task specification: training networks, collecting checkpoints, fine-tuning, deep ensembles."""
