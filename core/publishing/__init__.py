"""Generated models as files for others: state dicts and their model card."""
