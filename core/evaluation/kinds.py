"""Names and kinds of the sources of weights: which names are fixed, and what a stored name says."""

from enum import Enum

ORIGINAL, ENSEMBLE, GENERATED, RECONSTRUCTED, FINETUNED = "original", "ensemble", "p_diff", "reconstructed", "finetuned"
PROTOCOL_SOURCES = (ORIGINAL, ENSEMBLE, GENERATED)  # the columns of the paper's table
AVERAGE, NOISED = "average", "noised"  # families: one source per group size or noise level
SOUP_PREFIX = "soup_"


class Kind(Enum):
    """How the weights of a source come about."""

    ORIGINAL = "original"  # the K checkpoints themselves
    GENERATED = "generated"  # drawn from the trained generator
    FREE = "free"  # computed from the K checkpoints without any gradient
    TRAINED = "trained"  # needs more training of every model
    RECONSTRUCTED = "reconstructed"  # the checkpoints through the generator's encoder and decoder
    SOUP = "soup"  # one average of models that their scores on validation chose


NAMED_KINDS = {
    ORIGINAL: Kind.ORIGINAL,
    GENERATED: Kind.GENERATED,
    RECONSTRUCTED: Kind.RECONSTRUCTED,
    FINETUNED: Kind.TRAINED,
}
CHOOSABLE = (Kind.ORIGINAL, Kind.GENERATED)  # sources of many models, of which a user picks or combines some


def kind_of(name: str) -> Kind:
    """Return the kind of a source that a file stores under this name without saying its kind."""
    return Kind.SOUP if name.startswith(SOUP_PREFIX) else NAMED_KINDS.get(name, Kind.FREE)


def soup_of(name: str) -> str:
    """Return the name of the greedy soup of a source."""
    return SOUP_PREFIX + name


def family_and_number(name: str) -> tuple[str, float | None]:
    """Split off the number that ends a name: ("noised", 0.05) of "noised_0.05", ("p_diff", None) of "p_diff"."""
    stem, _, number = name.rpartition("_")
    try:
        return stem, float(number)
    except ValueError:
        return name, None


def family_of(name: str) -> str:
    """Return the name without its number, equal for sources that differ in that number only."""
    return family_and_number(name)[0]
