"""Thin command lines: python -m scripts.<name>."""
