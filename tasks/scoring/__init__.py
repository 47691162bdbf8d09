"""Scoring many parameter vectors of one network, with the part that they share computed once."""
