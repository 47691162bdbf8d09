"""Command lines besides the two entry points, started as python -m scripts.<name>."""
