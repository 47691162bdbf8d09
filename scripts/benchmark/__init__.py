"""Benchmark of each stage against the reference procedure, which is that of the paper or its published code."""
