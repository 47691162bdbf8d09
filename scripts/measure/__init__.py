"""Measurements behind the numbers of README and docs, each repeated by one command."""
