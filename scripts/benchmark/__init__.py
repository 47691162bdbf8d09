"""A benchmark of each stage against the reference procedure, from the paper or its published code."""
