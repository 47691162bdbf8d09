"""The command line: Hydra entry points, range checks of settings, and the handling of errors."""
