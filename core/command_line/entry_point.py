"""The start of both entry points: Hydra, the ranges, the machine, and the folder of each job of a multirun."""

import functools
import logging
import os
import re
import sys
from collections.abc import Callable
from typing import Any, cast

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import env_override
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from core.command_line.composition_error import CONFIGS, explain_composition_error, is_group
from core.command_line.ranges import check_ranges
from core.command_line.run_command import mistakes_in_one_sentence
from core.runtime.errors import UserError
from core.runtime.quiet import quiet_lightning
from core.runtime.trainer import PRECISIONS, TF32, pick_device

log = logging.getLogger(__name__)


def entry_point(main: Callable[[DictConfig], None]) -> Callable[..., None]:
    """Run `main(cfg)` under Hydra with configs/base.yaml; a file of a configuration group may be chosen with dots.

    The policy for errors is that of `mistakes_in_one_sentence`, where a configuration value that does not resolve, or
    an argument that a class or Lightning's Trainer refuses, is a user's mistake, too.
    """
    composed = False

    @functools.wraps(main)
    def run_job(cfg: DictConfig) -> None:
        nonlocal composed
        composed = True
        quiet_lightning()
        with mistakes_in_one_sentence(OmegaConfBaseException, InstantiationException, MisconfigurationException):
            OmegaConf.resolve(cfg)
            check_ranges(cfg)
            settle_machine(cfg.trainer)
            main(cfg)

    run = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="base")(run_job)

    @functools.wraps(main)
    def start(cfg: DictConfig | None = None) -> None:
        sys.argv[1:] = [with_slashes(word) for word in sys.argv[1:]]
        try:
            with env_override({"HYDRA_FULL_ERROR": "1"}):  # Hydra then raises its errors instead of printing them
                run(cfg)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            if composed:
                raise
            with mistakes_in_one_sentence():
                raise UserError(explain_composition_error(error, sys.argv[1:])) from error

    return start


def with_slashes(word: str) -> str:
    """Return `task.model=vit_tiny` as Hydra's `task/model=vit_tiny`, where configs/task/model is a folder of choices.

    Lists of a multirun (`task.model=vit_tiny,resnet18`) too. Every other word stays as it is.
    """
    name, _, choices = word.partition("=")
    is_choice = re.fullmatch(r"\w+(\.\w+)+", name) and re.fullmatch(r"[\w-]+(,[\w-]+)*", choices)
    if is_choice and is_group(name.replace(".", "/")):
        return f"{name.replace('.', '/')}={choices}"
    return word


def plain(section: DictConfig) -> dict[str, Any]:
    """Return a section of the configuration as plain values, the only form in which it goes below the entry points."""
    return cast(dict[str, Any], OmegaConf.to_container(section, resolve=True))


def sweep_suffix() -> str:
    """Return the swept overrides of this job of a multirun (-m), so that jobs do not share a folder; else nothing."""
    hydra_config = HydraConfig.get()
    if hydra_config.mode != RunMode.MULTIRUN:
        return ""
    typed = OverridesParser.create().parse_overrides([word for word in sys.argv[1:] if "=" in word])
    swept = {override.get_key_element() for override in typed if override.is_sweep_override()}
    return ",".join(word for word in hydra_config.overrides.task if word.partition("=")[0] in swept).replace("/", ".")


def settle_machine(trainer: DictConfig) -> None:
    """Log the device and write it into the configuration, so that training, sampling and scoring share one choice.

    Left to itself, Lightning would also take accelerators that nothing here was tried on.

    Raises:
        UserError: The precision is unknown, there is no GPU though one is asked for or needed by 16 bits, or several
            devices are asked for without trainer=ddp.
    """
    accelerator, devices, precision = trainer.accelerator, trainer.get("devices", 1), trainer.get("precision", TF32)
    if precision not in PRECISIONS:  # Lightning's others cast the whole network for good, which scoring cannot undo
        raise UserError(
            f"trainer.precision={precision}: expected one of {', '.join(PRECISIONS)}; set trainer.precision={TF32}"
        )
    if devices != "auto" and (type(devices) is not int or devices < 1):
        raise UserError(
            f"trainer.devices={devices}: expected a number of devices or auto; set CUDA_VISIBLE_DEVICES to choose which"
        )
    if devices != 1 and trainer.get("strategy") != "ddp_spawn":
        raise UserError(
            f"trainer.devices={devices}: expected 1; give trainer=ddp for several GPUs, "
            "or set CUDA_VISIBLE_DEVICES to choose one"
        )
    on_gpu = pick_device(accelerator).type == "cuda"
    if accelerator in ("gpu", "cuda") and not on_gpu:
        raise UserError(f"trainer.accelerator={accelerator}, but no GPU was found; give trainer=auto or trainer=cpu")
    if "16" in str(precision) and not on_gpu:  # on some CPUs torch ends in "Illegal instruction", on others it is slow
        raise UserError(f"trainer.precision={precision} needs a GPU; set trainer.precision={TF32}")
    if trainer.get("deterministic", False) not in (True, False, "warn"):
        raise UserError(f"trainer.deterministic={trainer.deterministic}: expected true, false or warn")
    if trainer.get("deterministic"):
        be_deterministic(warn_only=trainer.deterministic == "warn")
    if on_gpu:
        log.info("running on %s", torch.cuda.get_device_name())
    else:
        log.info(
            "running on the CPU (%d threads)%s",
            torch.get_num_threads(),
            "" if accelerator == "cpu" else ": no GPU was found",
        )
    trainer.accelerator = "cuda" if on_gpu else "cpu"


def be_deterministic(*, warn_only: bool) -> None:
    """Have torch use deterministic algorithms also outside of fits, since sampling and scoring have no Trainer."""
    # cuBLAS repeats its sums only with a workspace of fixed size.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
