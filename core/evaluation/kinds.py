"""Names and kinds of the sources of weights."""

from enum import Enum

ORIGINAL, ENSEMBLE, GENERATED, RECONSTRUCTED = "original", "ensemble", "p_diff", "reconstructed"
PROTOCOL_SOURCES = (ORIGINAL, ENSEMBLE, GENERATED)  # the columns of the paper's table
SWAG, EMA, LAWA = "swag", "ema", "lawa"
# CONTINUED are held-out later checkpoints of the training of the originals, HELD_OUT are further independent trainings.
CONTINUED, HELD_OUT, LAPLACE, DEEP_ENSEMBLE = "continued", "held_out", "laplace", "deep_ensemble"
# Families hold one source per group size, noise level or number of steps.
AVERAGE, NOISED, FINETUNED = "average", "noised", "finetuned"
SOUP_PREFIX = "soup_"


class Kind(Enum):
    """The origin of the weights of a source."""

    ORIGINAL = "original"  # the K checkpoints themselves
    GENERATED = "generated"  # drawn from the trained generator
    FREE = "free"  # computed from the K checkpoints without further gradients
    TRAINED = "trained"  # made with further gradients after the K checkpoints
    RECONSTRUCTED = "reconstructed"  # the checkpoints, encoded and decoded by the generator
    SOUP = "soup"  # one average of models chosen by their validation scores


NAMED_KINDS = {  # kinds by source or by family
    ORIGINAL: Kind.ORIGINAL,
    GENERATED: Kind.GENERATED,
    RECONSTRUCTED: Kind.RECONSTRUCTED,
    **dict.fromkeys((FINETUNED, CONTINUED, HELD_OUT, LAPLACE, DEEP_ENSEMBLE), Kind.TRAINED),
}
CHOOSABLE = (Kind.ORIGINAL, Kind.GENERATED)  # A user picks or combines models of these sources.


def infer_kind(name: str) -> Kind:
    """Return the kind of a source from its name, for files that do not store the kind."""
    return Kind.SOUP if name.startswith(SOUP_PREFIX) else NAMED_KINDS.get(get_family(name), Kind.FREE)


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
