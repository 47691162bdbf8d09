"""Suggestions for a mistyped name."""

from core.runtime.errors import nearest

KNOWN = ["resnet18", "resnet50", "vit_tiny"]


def test_a_near_miss_is_suggested():
    assert nearest("resnet81", KNOWN) == "did you mean resnet18, resnet50?"


def test_without_a_near_miss_the_known_names_are_listed_up_to_a_limit():
    assert nearest("qqq", KNOWN) == "known ones are resnet18, resnet50, vit_tiny"
    assert nearest("qqq", map(str, range(10_000))).count(",") == 19
