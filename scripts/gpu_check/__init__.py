"""A check on a GPU: whether every stage runs, how fast it is, and what limits its speed."""
