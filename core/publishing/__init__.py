"""Export of generated models as state dicts with a model card."""
