"""Scores of many parameter vectors, with the shared part of the network computed once."""
