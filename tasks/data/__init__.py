"""Datasets with three splits each, and the loaders over their images."""
