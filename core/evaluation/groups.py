"""Groups of sources by what their models cost once the K checkpoints exist."""

from enum import StrEnum

from core.evaluation.kinds import ORIGINAL, Kind, infer_kind, name_soup


class Group(StrEnum):
    """The cost of the models of a source, beyond the K checkpoints. Tables show the groups in this order."""

    ORIGINAL = "original"  # nothing: the K checkpoints themselves
    GENERATED = "generated"  # the training of the generator
    FREE = "free"  # no gradient
    TRAINED = "trained"  # gradients for each model


def find_group(source: str, kind: Kind | None = None) -> Group:
    """Return the group of a source; a kind of None is inferred from the name."""
    kind = kind or infer_kind(source)
    if kind is Kind.SOUP:
        return Group.FREE if source == name_soup(ORIGINAL) else Group.GENERATED
    return {
        Kind.ORIGINAL: Group.ORIGINAL,
        Kind.GENERATED: Group.GENERATED,
        Kind.RECONSTRUCTED: Group.GENERATED,
        Kind.FREE: Group.FREE,
        Kind.TRAINED: Group.TRAINED,
    }[kind]
