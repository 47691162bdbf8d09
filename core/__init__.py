"""The generative side of p-diff, which handles parameter vectors and never images."""
