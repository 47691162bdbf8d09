"""The stages of one command: which of how many, how long each took, and its progress bar."""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

log = logging.getLogger(__name__)
Item = TypeVar("Item")


class Stages:
    """Announces, numbers and times the stages of a command, in the order given."""

    def __init__(self, names: Sequence[str]):
        self.names = list(names)
        self.seconds: dict[str, float] = {}
        self.current = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as stage `name`; its progress bars carry the label."""
        self.current = name
        log.info("%s", self.label)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 2)

    @property
    def label(self) -> str:
        """For example "[3/5] generate"."""
        return f"[{self.names.index(self.current) + 1}/{len(self.names)}] {self.current.replace('_', ' ')}"

    def progress(self, items: Iterable[Item], what: str = "", total: int | None = None) -> Iterable[Item]:
        """Iterate under a progress bar labelled with the current stage."""
        return tqdm(items, desc=f"{self.label} {what}".rstrip(), total=total, dynamic_ncols=True, mininterval=0.5)
