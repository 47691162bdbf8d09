"""Scores of models, stored as tables on disk, and measures of their quality and similarity."""
