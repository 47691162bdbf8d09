"""Suggestions for a mistyped name, and errors of libraries as one line."""

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.runtime.errors import UserError, format_error, suggest_names

KNOWN = ["resnet18", "resnet50", "vit_tiny"]


def test_a_near_miss_is_suggested():
    assert suggest_names("resnet81", KNOWN) == "did you mean resnet18, resnet50?"


def test_without_a_near_miss_the_known_names_are_listed_up_to_a_limit():
    assert suggest_names("qqq", KNOWN) == "known ones are resnet18, resnet50, vit_tiny"
    assert suggest_names("qqq", map(str, range(10_000))).count(",") == 19


def test_line_breaks_are_removed():
    assert format_error(UserError("k=1 is\n  too small")) == "k=1 is too small"


def test_a_user_error_behind_an_error_of_a_library_is_unwrapped():
    error = RuntimeError("error in the constructor")
    error.__cause__ = UserError("k=1 is too small")
    assert format_error(error) == "k=1 is too small"


def test_the_traceback_of_a_loader_process_is_cut_off():
    text = 'Caught UserError in worker process 0.\nTraceback:\n  File "x.py"\ncore.errors.UserError: image 3\nis bad'
    assert format_error(UserError(text)) == "image 3 is bad"


def test_of_an_omegaconf_error_only_the_first_line_is_kept():
    cfg = OmegaConf.create({"a": 1})
    OmegaConf.set_struct(cfg, True)
    with pytest.raises(OmegaConfBaseException) as error:
        cfg["nowhere"]
    assert "\n" in str(error.value)
    assert format_error(error.value) == "Key 'nowhere' is not in struct"
