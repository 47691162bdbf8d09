"""What a task is: images, a network, its training, the generated parameters and how checkpoints are taken of them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from core.runtime.errors import UserError
from tasks.collecting.collection import Collection, Factory, Optimization
from tasks.collecting.independent import IndependentCollection
from tasks.collecting.steps import StepsCollection
from tasks.data.splits import DataOptions
from tasks.networks.build import ModelSpec

# Where files lie and how they are read does not change what is collected: augmentations do not depend on workers.
# K only says how much of it.
NOT_RECORDED = {"data": ("root", "verify", "num_workers"), "param": ("path", "k")}


KINDS: dict[str, type[Collection]] = {"steps": StepsCollection, "independent": IndependentCollection}


def choose_collection(config: Mapping[str, Any]) -> Collection:
    """Return the collection of a `task.collect` section, by its `kind`.

    Raises:
        UserError: there is no such kind.
    """
    if config.get("kind") not in KINDS:
        raise UserError(f"task.collect.kind={config.get('kind')}: expected one of {', '.join(KINDS)}")
    return KINDS[config["kind"]].from_config(config)


@dataclass(frozen=True)
class ParamSpec:
    """The `task.param` section: where the checkpoints lie, and which parameters they are of."""

    path: str
    k: int
    subset: str | Sequence[str]
    count: int  # of normalization layers


@dataclass(frozen=True)
class TaskSpec:
    """The whole `task` section."""

    seed: int
    epochs: int
    batch_size: int
    make_optimizer: Factory
    make_scheduler: Factory | None  # None keeps the learning rate
    score_with: str | None  # package.module:function of the user's own
    data: DataOptions
    model: ModelSpec
    param: ParamSpec
    collect: Collection

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "TaskSpec":
        """Build from the plain values of the section.

        Raises:
            UserError: there is no such way to collect.
        """
        return cls(
            seed=config["seed"],
            epochs=config["epochs"],
            batch_size=config["batch_size"],
            make_optimizer=Factory(config["optimizer"]),
            make_scheduler=Factory(config["scheduler"]) if config["scheduler"] else None,
            score_with=config["score_with"],
            data=DataOptions(**config["data"]),
            model=ModelSpec(**config["model"]),
            param=ParamSpec(**config["param"]),
            collect=choose_collection(config["collect"]),
        )

    def to_config(self) -> dict[str, Any]:
        """Return the section that this would be built from."""
        data = asdict(self.data)
        data.pop("weights")  # which follow from the model
        return {
            "seed": self.seed,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "optimizer": dict(self.make_optimizer.settings),
            "scheduler": dict(self.make_scheduler.settings) if self.make_scheduler else None,
            "score_with": self.score_with,
            "data": data,
            "param": asdict(self.param),
            "collect": self.collect.to_config(),
            "model": asdict(self.model),
        }

    def record(self) -> dict[str, Any]:
        """Return the part that decides what the checkpoints are, as their file records it."""
        settings = self.to_config()
        settings.pop("score_with")  # whose images the fingerprint identifies
        for section, names in NOT_RECORDED.items():
            settings[section] = {name: value for name, value in settings[section].items() if name not in names}
        settings["collect"] = self.collect.record()
        return {"task": settings}

    @property
    def last_optimization(self) -> Optimization:
        """How the checkpoints were last trained."""
        return self.collect.pick_last_optimization(Optimization(self.make_optimizer, self.batch_size))
