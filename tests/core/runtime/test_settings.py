"""The differences between stored and current settings."""

import json

from core.runtime.settings import MISSING, describe_differences, find_differences, hash_settings

STORED = {"seed": 0, "task": {"model": {"name": "resnet18", "pretrained": False}, "subset": ["a.*", "b.*"]}}


def test_equal_settings_differ_in_nothing_also_after_a_trip_through_json():
    assert find_differences(STORED, json.loads(json.dumps(STORED))) == {}


def test_differences_carry_the_names_that_one_types():
    asked = {"seed": 1, "task": {"model": {"name": "resnet50", "pretrained": False}, "subset": ["a.*"]}}
    assert find_differences(STORED, asked) == {
        "seed": (0, 1),
        "task.model.name": ("resnet18", "resnet50"),
        "task.subset": (["a.*", "b.*"], ["a.*"]),
    }


def test_a_name_on_one_side_only_is_a_difference_unless_its_value_is_null():
    """Files from before an option was added still match while the option is null."""
    assert find_differences({"a": 1}, {"b": {"c": 2}}) == {"a": (1, MISSING), "b.c": (MISSING, 2)}
    assert find_differences({"a": None}, {"b": {"c": None}}) == {}


def test_a_section_about_the_machine_that_one_side_does_not_know_is_not_compared():
    """Older files lack the training precision, and commands that do not train do not set it."""
    assert find_differences({}, {"task": {"k": 1}, "trainer": {"precision": "tf32"}}) == {"task.k": (MISSING, 1)}
    assert find_differences({"imported": {"a": 1}}, {"task": {"k": 1}}) == {
        "imported.a": (1, MISSING),
        "task.k": (MISSING, 1),
    }
    assert find_differences({"task": {"k": 1}}, {"task": {"k": 1}, "trainer": {"precision": "tf32"}}) == {}
    assert find_differences({"task": {"k": 1}, "trainer": {"precision": "tf32"}}, {"task": {"k": 2}}) == {
        "task.k": (1, 2)
    }
    assert find_differences({"trainer": {"precision": "tf32"}}, {"trainer": {"precision": "32-true"}}) == {
        "trainer.precision": ("tf32", "32-true")
    }


def test_false_zero_and_absent_are_told_apart():
    assert find_differences({"x": 0}, {}) == {"x": (0, MISSING)}
    assert find_differences({"x": None}, {"x": 0}) == {"x": (None, 0)}


def test_the_sentence_names_both_values_and_counts_the_rest():
    differing = find_differences({f"n{index}": 0 for index in range(9)}, {f"n{index}": 1 for index in range(9)})
    assert describe_differences(differing, most=2) == "n0=0 stored, 1 now; n1=0 stored, 1 now; and 7 more"
    assert describe_differences({"n": (0, 1)}) == "n=0 stored, 1 now"


def test_the_digest_depends_on_content_and_not_on_order():
    turned = {"task": dict(reversed(STORED["task"].items())), "seed": 0}
    assert hash_settings(STORED) == hash_settings(turned)
    assert hash_settings(STORED) != hash_settings({**STORED, "seed": 1})
