"""Bootstrap samples: items resampled in groups, and models of one walk resampled in blocks.

R bootstrap draws · S rows of values · G groups · N items.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

ENTRIES = 2**20  # numbers held at a time, to bound memory


@dataclass(frozen=True)
class Groups:
    """The groups in which items are resampled, for example the distorted versions of one image.

    Items of one group resemble each other, so resampling single items would overstate how many independent ones there
    are. Whole groups are drawn instead, as in cluster sampling.
    """

    order_N: np.ndarray  # indices of the items, sorted by group
    ends_G: np.ndarray  # index in `order_N` behind the last item of each group

    @classmethod
    def index(cls, num_items: int, groups_N: np.ndarray | None = None) -> "Groups":
        """Index the groups of the items; without `groups_N`, every item is a group of its own."""
        if groups_N is None:
            return cls(np.arange(num_items), np.arange(1, num_items + 1))
        sizes_G = np.unique(groups_N, return_counts=True)[1]
        return cls(np.argsort(groups_N, kind="stable"), np.cumsum(sizes_G))

    def __len__(self) -> int:
        return len(self.ends_G)

    @property
    def sizes_G(self) -> np.ndarray:
        """Number of items in each group."""
        return np.diff(self.ends_G, prepend=0)

    def split(self, most_items: int) -> Iterator["Groups"]:
        """Yield the groups in their order as parts with about `most_items` items, and with at least one group."""
        first, count = 0, max(1, most_items // int(self.sizes_G.max()))
        for start in range(0, len(self), count):
            ends_G = self.ends_G[start : start + count]
            yield Groups(self.order_N[first : ends_G[-1]], ends_G - first)
            first = int(ends_G[-1])

    def sum(self, values_SN: np.ndarray) -> np.ndarray:
        """Return the sum of the values over the items of each group, (S, G) float64."""
        return np.add.reduceat(values_SN[:, self.order_N], self.ends_G - self.sizes_G, axis=1, dtype=np.float64)


def draw_counts(size: int, draws: int, random: np.random.Generator, block_length: int = 1) -> np.ndarray:
    """Draw how often each of `size` units occurs in each bootstrap sample, (R, size) float64.

    With a block length, each sample consists of runs of consecutive units that start at random places, and the last
    unit is followed by the first one (circular block bootstrap, Politis & Romano 1992, after the moving blocks of
    Künsch 1989, Annals of Statistics 17). Dependence between units at most that far apart then stays intact. The last
    run is cut, so that every row sums to `size`.
    """
    counts = np.empty((draws, size))
    for row in counts:  # Generator.multinomial has the same distribution as blocks of one unit but is much slower.
        drawn = random.integers(size, size=-(-size // block_length))
        if block_length > 1:
            drawn = ((drawn[:, None] + np.arange(block_length)) % size).ravel()[:size]
        row[:] = np.bincount(drawn, minlength=size)
    return counts


def draw_sums(values_SG: np.ndarray, draws: int, seed: int, block_length: int = 1) -> np.ndarray:
    """Return the sum of the values over the units of each bootstrap sample, (R, S).

    All rows of values share the samples. They depend on the seed and the number of units only, so that values of two
    calls are paired. Some samples are held at a time, so that memory is bounded for any number of units.
    """
    size, random = values_SG.shape[1], np.random.default_rng(seed)
    rows = max(1, ENTRIES // size)
    return np.concatenate(
        [
            draw_counts(size, min(rows, draws - start), random, block_length) @ values_SG.T
            for start in range(0, draws, rows)
        ]
    )


def draw_means(sums_SG: np.ndarray, sizes_G: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Return the mean over the items of resampled groups, (R, S).

    A sample of groups of unequal sizes holds a random number of items. The sum of its values is therefore divided by
    its own number of items (ratio estimator, Cochran 1977, Sampling Techniques, section 9A).

    Args:
        sums_SG: Sum of the values over the items of each group.
        sizes_G: Number of items in each group.
        draws: Number of bootstrap samples, R.
        seed: Seed of the samples.
    """
    drawn_RS = draw_sums(np.vstack([sums_SG, sizes_G]), draws, seed)
    return drawn_RS[:, :-1] / drawn_RS[:, -1:]
