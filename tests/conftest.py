"""The order of the files of the whole suite."""

FIRST = ("test_whole_networks.py", "test_run.py")  # the longest; one of them makes the run that others wait for
SLOW = {"pipeline", "scripts"}  # whole commands, minutes a file


def pytest_collection_modifyitems(items):
    """Begin with the longest files, so that no worker is left with one of them while the others have nothing to do."""

    def rank(item):
        if item.path.name in FIRST and "pipeline" in item.path.parts:
            return FIRST.index(item.path.name)
        return len(FIRST) + SLOW.isdisjoint(item.path.parts)

    items.sort(key=rank)
