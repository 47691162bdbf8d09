"""For the whole suite: the order of its files."""

SLOW = {"pipeline", "scripts"}  # whole commands, minutes a file


def pytest_collection_modifyitems(items):
    """Begin with what takes longest, so that no worker is left with a long file while the others have nothing to do."""
    items.sort(key=lambda item: SLOW.isdisjoint(item.path.parts))
