"""The image side of p-diff: datasets, classifiers, collecting checkpoints, scoring vectors."""
