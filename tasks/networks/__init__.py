"""Classifiers: timm's networks, small ones that are generated whole, and rebuilding one from a file."""
