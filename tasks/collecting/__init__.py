"""Training of classifiers, and the checkpoints that are taken of them."""
