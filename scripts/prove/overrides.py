"""Random overrides of the whole configuration: each is accepted or refused in one sentence, never with a traceback."""

import copy
import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import hypothesis
from hydra import compose, initialize_config_dir
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from core.checkpoints.subset import resolve_subset
from core.command_line.entry_point import entry_point
from core.runtime.errors import UserError
from core.runtime.provenance import ROOT
from scripts.console import print_line
from scripts.prove.commands import SMALL
from task_training import check_settings
from tasks.task import open_images
from tasks.training.train_networks import initialize_classifier

COSTLY = "task.data.image_size"  # A large one is no mistake, but takes all memory.
ACCEPTED, REFUSED = "accepted", "refused"
GROUPS = {
    group: sorted(path.stem for path in (ROOT / "configs" / group).glob("*.yaml"))
    for group in ("system", "system/autoencoder", "system/denoiser", "system/sampler", "task/model")
}
# Numbers at which checks tend to fail: bounds, signs, odd sizes, and numbers that no memory could hold.
NUMBERS = st.one_of(
    st.integers(-3, 20),
    st.sampled_from([0.0, -0.5, 0.5, 1e-3, 1e30, float("nan"), float("inf"), 255, 256, 257, 1000, 10**9, 10**20]),
)
TEXTS = st.one_of(st.sampled_from(["", "auto", "none", "all", "null", "digits", "a.b", "x" * 300]), st.text(max_size=8))
VALUES = st.one_of(
    NUMBERS,
    TEXTS,
    st.none(),
    st.booleans(),
    st.lists(st.one_of(NUMBERS, TEXTS), max_size=3),
    st.dictionaries(st.sampled_from(["lr", "name", "foo"]), NUMBERS, max_size=2),
)


def list_names(cfg: DictConfig, section: str = "") -> Iterator[str]:
    """Yield the dotted names of all sections and settings of a configuration, without the classes that it names."""
    for key in map(str, cfg):
        if key not in ("_target_", "_partial_"):
            yield f"{section}{key}"
        value = OmegaConf.select(cfg, key)
        if isinstance(value, DictConfig):
            yield from list_names(value, f"{section}{key}.")


def check(cfg: DictConfig) -> None:
    """Make all checks of task_training.py that come before the first training step."""
    task, _ = check_settings(cfg)
    network = initialize_classifier(task, open_images(task), task.seed)
    subset = resolve_subset(network, task.param.subset, task.param.count)
    task.collect.check_subset(subset, task.param.subset, network)


def try_overrides(base: DictConfig, overrides: dict[str, Any]) -> str:
    """Return whether a configuration with these values is accepted or refused.

    Raises:
        UserError: It ends otherwise than in one sentence.
    """
    cfg = copy.deepcopy(base)
    for name, value in overrides.items():
        try:
            OmegaConf.update(cfg, name, value, merge=False, force_add=True)
        except Exception:  # an earlier override made a section a single value
            return REFUSED
    try:
        with redirect_stderr(StringIO()):
            entry_point(check)(cfg)
    except SystemExit as end:
        if isinstance(end.code, str) and end.code.startswith("error: ") and "\n" not in end.code:
            return REFUSED
        raise UserError(f"{overrides} ended with {end.code!r}") from end
    except Exception as error:
        raise UserError(f"{overrides} ended with a traceback ({type(error).__name__}: {error})") from error
    return ACCEPTED


def prove_overrides(out: Path, *, seed: int, count: int) -> dict[str, Any]:
    """Try random overrides in this process, drawn by Hypothesis from the names of the configuration.

    Args:
        out: Not used, because no run is made.
        seed: The seed of Hypothesis.
        count: The number of configurations.

    Raises:
        UserError: A configuration ends in a traceback.
    """
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        bases = [
            compose("base", overrides=[*SMALL, *choice])
            for choice in [[], *([f"{group}={option}"] for group, options in GROUPS.items() for option in options)]
        ]
    names = sorted(set(itertools.chain.from_iterable(map(list_names, bases))) - {COSTLY})
    outcomes: Counter[str] = Counter()
    drawn: set[str] = set()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],  # the first failure is told as it is
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.sampled_from(bases), st.dictionaries(st.sampled_from(names), VALUES, min_size=1, max_size=3))
    def attempt(base: DictConfig, overrides: dict[str, Any]) -> None:
        outcomes[try_overrides(base, overrides)] += 1
        drawn.update(overrides)

    attempt()
    print_line(f"{outcomes.total()} configurations: {dict(outcomes)}")
    return {"seed": seed, "count": outcomes.total(), **outcomes, "names": len(drawn), "tracebacks": 0}
