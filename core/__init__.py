"""The generative side of p-diff: knows parameter vectors, never images."""
