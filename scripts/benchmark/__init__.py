"""Each stage of ours against the reference procedure, side by side in one run."""
