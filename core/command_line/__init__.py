"""Everything that speaks Hydra or argparse: entry points, ranges of numbers, one policy for errors."""
