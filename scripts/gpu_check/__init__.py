"""A check of everything that only a GPU can show: whether it runs there, how fast, and what bounds it."""
