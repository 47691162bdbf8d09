"""Digests of source code: they follow what the code does, and a function's digest follows nothing but what it uses."""

import pytest

from core.evaluation import evaluate, soup, sources
from core.evaluation.scores import Scores
from core.generation import baselines
from core.runtime import source_code
from core.runtime.source_code import digest_code, digest_file, find_files, locate, normalize

SOURCE = '''"""Module."""
from math import pi, tau

VALUE = 1  # a comment
OTHER = 2


def half(x):
    """Return half."""
    return x / 2  # exact


def circle(x):
    return half(x) * pi + VALUE
'''


@pytest.fixture
def edit(tmp_path, monkeypatch):
    """Return a function that replaces text of code.py and returns the digests of the file and its two functions."""
    monkeypatch.setattr(source_code, "ROOT", tmp_path)

    def write(old="", new=""):
        assert old in SOURCE
        (tmp_path / "code.py").write_text(SOURCE.replace(old, new) if old else SOURCE)
        return tuple(digest_code(["code.py", "code.py:half", "code.py:circle"]).values())

    return write


@pytest.mark.parametrize("old, new, changed", [
    ("exact", "precise", (0, 0, 0)),
    ("Return half.", "Return\n    x / 2.", (0, 0, 0)),
    ("Module", "M", (0, 0, 0)),
    ('    """Return half."""\n', "", (0, 0, 0)),
    ("half(x) * pi", "half(\n        x\n    ) * pi", (0, 0, 0)),
    ("x / 2", "x / 3", (1, 1, 1)),
    ("* pi", "* 3", (1, 0, 1)),
    ("VALUE = 1", "VALUE = 5", (1, 0, 1)),
    ("OTHER = 2", "OTHER = 5", (1, 0, 0)),
    ("pi, tau", "pi", (1, 0, 0)),
    ("from math import pi, tau", "from other import pi", (1, 0, 1)),
])  # fmt: skip
def test_a_digest_changes_with_the_code_that_is_used_and_with_nothing_else(edit, old, new, changed):
    before, after = edit(), edit(old, new)
    assert tuple(int(one != other) for one, other in zip(before, after, strict=True)) == changed


def test_a_number_sign_inside_a_string_is_no_comment():
    assert normalize('color = "#fff"  # white\n') == "color = '#fff'"


def test_a_function_that_is_only_a_docstring_stays_valid_code():
    assert normalize('def f():\n    """Do nothing."""\n') == "def f():\n    pass"


def test_a_comment_of_yaml_changes_no_digest_and_a_value_does(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("epochs: 3 # short\n")
    before = digest_file(path)
    path.write_text("# Of a test.\nepochs: 3\n")
    assert digest_file(path) == before
    path.write_text("epochs: 4\n")
    assert digest_file(path) != before


def test_a_misspelled_name_is_refused():
    with pytest.raises(ValueError, match="core/absent"):
        find_files(["core/absent/*.py"])
    with pytest.raises(ValueError, match="absent"):
        digest_code(["core/generation/baselines.py:absent"])


@pytest.mark.parametrize("definition", [baselines.noised, soup.greedy_soup, Scores, sources.draw_models])
def test_a_located_definition_is_found_in_its_file(definition):
    assert list(digest_code([locate(definition)])) == [locate(definition)]


def test_the_code_of_every_generator_counts():
    counted = set(find_files(evaluate.GENERATOR_CODE))
    files = {name for name in find_files(["core/generation/*.py"]) if not name.endswith("__init__.py")}
    assert files - counted == {"core/generation/baselines.py"}
