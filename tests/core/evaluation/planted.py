"""Artificial sources of weights whose quality, novelty and copying are known, because they were planted.

An image n has a difficulty and a direction. A model errs on it if the difficulty plus the product of its vector and the
direction exceeds the skill of its source. Models with similar vectors therefore err alike, whatever their skill.

K originals · M models · N images · D numbers in one vector.
"""

from dataclasses import replace

import numpy as np

from core.evaluation.scores import Scores, ScoreTable

K, N, D = 40, 1000, 24
SKILL = 1.5  # of the originals, about 89% accuracy
NEW = 1.5  # spread of models, relative to the originals, that err on images of their own
FREE_SOURCES = ("original", "ensemble", "noised_0.5", "average_8", "gaussian_full", "soup_original")


class World:
    """Images of the splits "val" and "test", originals, and the free sources made from them."""

    def __init__(self, seed=0, *, num_images=N, num_originals=K, with_wrong=True, walk=False, influence=0.8):
        self.random, self.with_wrong, self.k = np.random.default_rng(seed), with_wrong, num_originals
        self.influence = influence  # of the vectors, beside the difficulty, on which images are wrong
        self.images = {
            split: (self.random.normal(size=size), self.random.normal(size=(D, size)) / np.sqrt(D))
            for split, size in (("val", N), ("test", num_images))
        }
        self.originals_KD = self.walk() if walk else self.sample(num_originals)

    def sample(self, count, spread=1.0):
        """Draw models from the distribution of the originals, which an honest sampler does."""
        return spread * self.random.normal(size=(count, D))

    def walk(self, memory=0.95):
        """Return the steps of one training, which resemble their neighbors."""
        rows_KD = self.sample(self.k)
        for k in range(1, self.k):
            rows_KD[k] = memory * rows_KD[k - 1] + np.sqrt(1 - memory**2) * rows_KD[k]
        return rows_KD

    def copy(self, count, noise=0.0):
        """Copy random originals and add noise, relative to their standard deviation."""
        chosen_MD = self.originals_KD[self.random.integers(self.k, size=count)]
        return chosen_MD + noise * self.random.normal(size=chosen_MD.shape)

    def average(self, count, of=8):
        """Average random originals."""
        of = max(1, min(of, self.k // 2))
        return np.stack([self.originals_KD[self.random.permutation(self.k)[:of]].mean(axis=0) for _ in range(count)])

    def score(self, vectors_MD, skill, split):
        difficulty_N, direction_DN = self.images[split]
        wrong_MN = difficulty_N + self.influence * vectors_MD @ direction_DN > skill
        accuracy_M = 1 - wrong_MN.mean(axis=1)
        return Scores(accuracy_M, 1 - accuracy_M, wrong_MN if self.with_wrong else None)

    def table(self, source, vectors_MD, skill=SKILL):
        scores = {split: self.score(vectors_MD, skill, split) for split in ("val", "test")}
        return ScoreTable(source, vectors_MD.astype(np.float32), scores, "id", 0.0)

    def tables(self, generated_MD, skill=SKILL, *, others=None, skills=None):
        """Return the tables of all sources.

        Args:
            generated_MD: The generated models.
            skill: Their skill.
            others: Vectors of further sources.
            skills: The skill of each source that has another one than the originals.
        """
        vectors = {
            "original": self.originals_KD,
            "ensemble": self.originals_KD.mean(axis=0, keepdims=True),
            "p_diff": generated_MD,
            "noised_0.5": self.copy(20, 0.5),
            "average_8": self.average(20),
            "gaussian_full": self.sample(20),
            "soup_original": self.originals_KD[: max(1, self.k // 4)].mean(axis=0, keepdims=True),
            "soup_p_diff": generated_MD[:1],
            **(others or {}),
        }
        skills = {"p_diff": skill, "soup_p_diff": skill, **(skills or {})}
        return {source: self.table(source, rows_MD, skills.get(source, SKILL)) for source, rows_MD in vectors.items()}


# Each function below returns the tables of one planted case.


def collapse():
    """Plant the case of the collapse table of docs/ablations.md: 10% accuracy, and the errors of every original."""
    world = World()
    return world.tables(world.sample(40), -1.6)


def copier():
    """Plant copies with noise of originals that are steps of one training, farther away than neighboring steps."""
    world = World(num_originals=120, walk=True)
    return world.tables(world.copy(40, noise=0.4), others={"gaussian_full": world.copy(20, noise=0.7)})


def averager():
    """Plant averages of 8 originals."""
    world = World()
    return world.tables(world.average(40), skills={"ensemble": SKILL - 0.1})


def repeated_model():
    """Plant one good model, repeated with hardly any noise."""
    world = World(num_images=2000)
    return world.tables(world.sample(1, 2.5) + 0.01 * world.sample(40), SKILL + 2.4)


def less_accurate_sampler():
    """Plant honest samples of a lower skill."""
    world = World()
    return world.tables(world.sample(40), SKILL - 0.25)


def nested_errors():
    """Plant models that are 0.3 points less accurate, a quarter of all errors, and repeat the errors of originals."""
    world = World(num_images=6000, influence=0.02)
    return world.tables(world.sample(40), 2.22, skills=dict.fromkeys(FREE_SOURCES, 2.3))


def loses_to_ensemble():
    """Plant models that are more accurate than averages of 8, and less accurate than the ensemble."""
    world = World()
    return world.tables(world.sample(40), SKILL + 0.55, skills={"ensemble": SKILL + 0.7})


def loses_to_gaussian():
    """Plant models that are more accurate than averages, and less accurate and less new than a Gaussian."""
    world = World()
    newer = {"gaussian_full": world.sample(20, 2)}
    return world.tables(world.sample(40), SKILL + 0.55, others=newer, skills={"gaussian_full": SKILL + 1.8})


def loses_to_average():
    """Plant models that are more accurate than the ensemble, and less accurate than averages of 8."""
    world = World()
    return world.tables(world.sample(40), SKILL + 0.55, skills={"ensemble": SKILL, "average_8": SKILL + 0.5})


def better_and_new():
    """Plant models of a higher skill than any source that err on images of their own."""
    world = World(num_images=4000)
    return world.tables(world.sample(40, NEW), SKILL + 1.2)


def better_and_alike():
    """Plant honest samples of a higher skill than any source, which err on the hardest images of the originals."""
    world = World()
    return world.tables(world.sample(40), SKILL + 0.7)


def twin():
    """Plant further models of the best free source."""
    world = World()
    better, models_MD = SKILL + 0.7, world.sample(80)
    return world.tables(
        models_MD[::2], better, others={"gaussian_full": models_MD[1::2]}, skills={"gaussian_full": better}
    )


def lucky_twin():
    """Plant a twin with a lead of chance over the best free source, to which validation prefers another one."""
    world = World()
    better, models_MD = SKILL + 0.7, world.sample(80)
    tables = world.tables(
        models_MD[1::2], better, others={"gaussian_full": models_MD[::2]}, skills={"gaussian_full": better}
    )
    scores = tables["gaussian_full"].scores
    unlucky = replace(scores["val"], accuracy_M=scores["val"].accuracy_M - 0.1)
    tables["gaussian_full"] = replace(tables["gaussian_full"], scores={**scores, "val": unlucky})
    return tables


def repeated_copy():
    """Plant noisy copies of one original, of a higher skill."""
    world = World()
    return world.tables(world.originals_KD[:1] + 0.1 * world.sample(40), SKILL + 0.8)


def copies_among_copies():
    """Plant copies beside copies with less noise, copies with more noise, and honest samples of the same skill."""
    world = World(num_images=4000, influence=0.3)
    others = {"noised_0.02": world.copy(20, 0.02), "noised_0.3": world.copy(20, 0.3)}
    return world.tables(world.copy(40, 0.15), others=others)


def shrunk_copies():
    """Plant copies of all originals, shrunk by 30% towards their mean, of a higher skill."""
    world = World()
    mean_D = world.originals_KD.mean(axis=0)
    return world.tables(mean_D + 0.7 * (world.copy(40) - mean_D), SKILL + 0.8)


def pairs():
    """Plant averages of 2 originals, of a higher skill."""
    world = World()
    return world.tables(world.average(40, of=2), SKILL + 0.8)


def some_copies():
    """Plant 45% exact copies among better and new models."""
    world = World(num_images=2000)
    return world.tables(np.concatenate([world.copy(18), world.sample(22, 3)]), SKILL + 2.6)


def few_copies():
    """Plant 5% exact copies among better and new models."""
    world = World(num_images=2000)
    return world.tables(np.concatenate([world.copy(2), world.sample(38, 2.5)]), SKILL + 2)


def fewer_nested_errors():
    """Plant models that are 0.3 points more accurate and repeat the errors of originals, of which they lack some."""
    world = World(num_images=6000, influence=0.02)
    return world.tables(world.sample(40), 2.42, skills=dict.fromkeys(FREE_SOURCES, 2.3))


def lucky_errors():
    """Plant models that are 0.1 points more accurate, and whose relative κ is lower than the reference's by chance.

    On 200,000 other images, the relative κ of these models is 0.883 and that of the reference (ensemble) 0.881.
    """
    world = World(num_images=6000, influence=0.2)
    return world.tables(world.sample(40), 2.42, skills=dict.fromkeys(FREE_SOURCES, 2.3))


def bad_baseline():
    """Plant better and new models beside a free source with 10% accuracy, which repeats the errors of all originals."""
    world = World(num_images=4000)
    return world.tables(world.sample(40, NEW), SKILL + 1.2, skills={"gaussian_full": -1.6})


def few_images(seed=7):
    """Plant better and new models that are scored on 12 images."""
    world = World(seed, num_images=12)
    return world.tables(world.sample(40), SKILL + 0.7)


def two_originals():
    """Plant better and new models of a generator that saw 2 originals."""
    world = World(num_originals=2)
    return world.tables(world.sample(5), SKILL + 0.7)


def three_originals():
    """Plant better and new models of a generator that saw 3 originals."""
    world = World(num_originals=3)
    return world.tables(world.sample(5), SKILL + 0.7)


def one_original():
    """Plant better and new models of a generator that saw 1 original."""
    world = World(num_originals=1)
    return world.tables(world.sample(5), SKILL + 0.7)


def no_masks():
    """Plant better models of a task that does not define errors per image."""
    world = World(with_wrong=False)
    return world.tables(world.sample(40), SKILL + 0.7)


def poor_rival():
    """Plant a free source that is less accurate by points, which few images do not show, and errs on other images."""
    world = World(num_images=60)
    rival = {"gaussian_full": world.sample(20, 4)}
    return world.tables(world.sample(40), SKILL, others=rival, skills={"gaussian_full": SKILL + 2})
