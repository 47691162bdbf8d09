"""Training of the classifiers that a task specifies, checkpoints taken from it, and fine-tuning."""
