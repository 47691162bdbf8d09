"""Ways to take checkpoints of a training, and the classifier that is trained."""
