"""The order in which the test files run."""

# These files are the slowest. test_run.py also makes a run that other files reuse.
FIRST = ("test_whole_networks.py", "test_run.py")
SLOW = {"pipeline", "scripts"}  # these run whole commands and take minutes per file


def pytest_collection_modifyitems(items):
    """Start with the slowest files, so that parallel workers finish at about the same time."""

    def rank(item):
        if item.path.name in FIRST and "pipeline" in item.path.parts:
            return FIRST.index(item.path.name)
        return len(FIRST) + SLOW.isdisjoint(item.path.parts)

    items.sort(key=rank)
