"""The `task` section as typed values: images, network, training, generated parameters, collecting."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from core.runtime.errors import UserError
from core.runtime.optimizers import try_optimizer
from core.runtime.settings import build_section
from tasks.collecting.collection import Collection, Factory, Optimization
from tasks.collecting.independent import IndependentCollection
from tasks.collecting.steps import StepsCollection
from tasks.data.splits import DataOptions
from tasks.networks.adapters import choose_subset
from tasks.networks.build import ModelSpec

# These settings do not change the checkpoints' values: where files are, how many processes read images (augmentations
# do not depend on this number), and how many checkpoints there are.
NOT_RECORDED = {"data": ("root", "verify", "num_workers"), "param": ("path", "k")}
KINDS: dict[str, type[Collection]] = {"steps": StepsCollection, "independent": IndependentCollection}


def choose_collection(config: Mapping[str, Any]) -> Collection:
    """Return the way to collect that a `task.collect` section chooses by its `kind`.

    Raises:
        UserError: The kind is unknown, or one of its settings is missing.
    """
    if config.get("kind") not in KINDS:
        raise UserError(
            f"task.collect.kind={config.get('kind')} is invalid: expected one of {', '.join(KINDS)}. "
            "Set task.collect.kind=steps"
        )
    try:
        return KINDS[config["kind"]].from_config(config)
    except KeyError as error:
        raise UserError(
            f"task.collect.kind={config['kind']} needs task.collect.{error.args[0]}. "
            f"Set task.collect={config['kind']}, which brings all its settings"
        ) from error


@dataclass(frozen=True)
class ParamSpec:
    """The `task.param` section: the file of the checkpoints, and the parameters that they hold."""

    path: str
    k: int  # K, the number of checkpoints
    subset: str | Sequence[str]  # "last_norms", "all", "lora" or patterns of parameter names
    count: int  # the number of normalization layers in "last_norms"


@dataclass(frozen=True)
class TaskSpec:
    """The whole `task` section."""

    seed: int
    epochs: int
    batch_size: int
    make_optimizer: Factory
    make_scheduler: Factory | None  # None keeps the learning rate constant
    warmup_steps: int | None  # the steps in which the learning rate rises from 0
    gradient_clip: float | None  # the largest norm of the gradient
    score_with: str | None  # the user's own package.module:function
    data: DataOptions
    model: ModelSpec
    param: ParamSpec
    collect: Collection

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "TaskSpec":
        """Build the specification from the plain values of the `task` section.

        Raises:
            UserError: The way to collect or a setting is unknown, or the subset and the adapters do not fit together.
        """
        model = ModelSpec.from_config(config["model"])
        if model.lora and config["score_with"]:
            raise UserError(
                f"task.model.lora.rank={model.lora.rank} cannot be used with "
                f"task.score_with={config['score_with']}, which returns its own network. Remove one of them"
            )
        return cls(
            seed=config["seed"],
            epochs=config["epochs"],
            batch_size=config["batch_size"],
            make_optimizer=Factory(config["optimizer"]),
            make_scheduler=Factory(config["scheduler"]) if config["scheduler"] else None,
            warmup_steps=config.get("warmup_steps"),  # older files lack it
            gradient_clip=config.get("gradient_clip"),
            score_with=config["score_with"],
            data=build_section(DataOptions, "task.data", config["data"]),
            model=model,
            param=build_section(
                ParamSpec,
                "task.param",
                {**config["param"], "subset": choose_subset(config["param"]["subset"], model.lora)},
            ),
            collect=choose_collection(config["collect"]),
        )

    def check_training(self) -> None:
        """Try the optimizer and the schedule of the classifier; raises `UserError` if their settings cannot work."""
        try_optimizer("task.optimizer", self.make_optimizer, self.make_scheduler, num_steps=self.epochs)

    def to_config(self) -> dict[str, Any]:
        """Return the section that `from_config` builds this specification from."""
        data = asdict(self.data)
        data.pop("weights")  # the model decides them
        if not data["diffusion"]:
            del data["diffusion"]  # older files, none of which is of a task of generation, lack it
        return {
            "seed": self.seed,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "optimizer": dict(self.make_optimizer.settings),
            "scheduler": dict(self.make_scheduler.settings) if self.make_scheduler else None,
            "warmup_steps": self.warmup_steps,
            "gradient_clip": self.gradient_clip,
            "score_with": self.score_with,
            "data": data,
            "param": asdict(self.param),
            "collect": self.collect.to_config(),
            "model": asdict(self.model),
        }

    def record(self) -> dict[str, Any]:
        """Return the settings that decide the checkpoints' values, in the form that their file records."""
        settings = self.to_config()
        if not self.score_with:
            settings.pop("score_with")  # files of earlier versions lack it
        for section, names in NOT_RECORDED.items():
            settings[section] = {name: value for name, value in settings[section].items() if name not in names}
        settings["collect"] = self.collect.record()
        return {"task": settings}

    @property
    def last_optimization(self) -> Optimization:
        """The optimizer and the batch size with which the checkpoints were last trained."""
        return self.collect.pick_last_optimization(Optimization(self.make_optimizer, self.batch_size))
