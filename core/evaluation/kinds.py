"""Names and kinds of the sources of weights."""

from enum import Enum

ORIGINAL, ENSEMBLE, GENERATED, RECONSTRUCTED, FINETUNED = "original", "ensemble", "p_diff", "reconstructed", "finetuned"
PROTOCOL_SOURCES = (ORIGINAL, ENSEMBLE, GENERATED)  # the columns of the paper's table
DEEP_ENSEMBLE = "deep_ensemble"  # whole networks, trained from scratch with other seeds
AVERAGE, NOISED = "average", "noised"  # Families hold one source per group size or noise level.
SOUP_PREFIX = "soup_"


class Kind(Enum):
    """The origin of the weights of a source."""

    ORIGINAL = "original"  # the K checkpoints themselves
    GENERATED = "generated"  # drawn from the trained generator
    FREE = "free"  # computed from the K checkpoints without training
    TRAINED = "trained"  # every model is trained further
    RECONSTRUCTED = "reconstructed"  # the checkpoints, encoded and decoded by the generator
    SOUP = "soup"  # one average of models chosen by their validation scores


NAMED_KINDS = {
    ORIGINAL: Kind.ORIGINAL,
    GENERATED: Kind.GENERATED,
    RECONSTRUCTED: Kind.RECONSTRUCTED,
    FINETUNED: Kind.TRAINED,
    DEEP_ENSEMBLE: Kind.TRAINED,
}
CHOOSABLE = (Kind.ORIGINAL, Kind.GENERATED)  # A user picks or combines models of these sources.


def infer_kind(name: str) -> Kind:
    """Return the kind of a source from its name, for files that do not store the kind."""
    return Kind.SOUP if name.startswith(SOUP_PREFIX) else NAMED_KINDS.get(name, Kind.FREE)


def name_soup(name: str) -> str:
    """Return the name of the greedy soup made from this source."""
    return SOUP_PREFIX + name


def split_number(name: str) -> tuple[str, float | None]:
    """Split a trailing number off a name.

    "noised_0.05" gives ("noised", 0.05), and "p_diff" gives ("p_diff", None).
    """
    stem, _, number = name.rpartition("_")
    try:
        return stem, float(number)
    except ValueError:
        return name, None


def get_family(name: str) -> str:
    """Return the name without its trailing number."""
    return split_number(name)[0]
