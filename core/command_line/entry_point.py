"""The start of both entry points: composing and checking the configuration, and choosing the device."""

import functools
import inspect
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
from pytorch_lightning import Trainer
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from core.command_line.composition_error import CONFIGS, explain_composition_error, is_group
from core.command_line.names import check_kinds, check_names, check_sections
from core.command_line.ranges import check_ranges
from core.command_line.run_command import exit_on_mistake
from core.runtime.errors import UserError
from core.runtime.quiet import quiet_lightning
from core.runtime.settings import require_known
from core.runtime.trainer import PRECISIONS, TF32, make_trainer, pick_device

log = logging.getLogger(__name__)


def entry_point(main: Callable[[DictConfig], None]) -> Callable[..., None]:
    """Decorate `main(cfg)` to run under Hydra with configs/base.yaml, with checked settings and a chosen device.

    A user's mistake ends the command with one line, as in `exit_on_mistake`. That includes invalid overrides, values
    that cannot be resolved, and arguments that a class or Lightning's Trainer does not accept.
    """
    composed = False

    @functools.wraps(main)
    def run_job(cfg: DictConfig) -> None:
        nonlocal composed
        composed = True
        quiet_lightning()
        with exit_on_mistake(OmegaConfBaseException, InstantiationException, MisconfigurationException):
            check_sections(cfg)
            OmegaConf.resolve(cfg)
            check_kinds(cfg)
            check_names(cfg)
            check_ranges(cfg)
            configure_machine(cfg.trainer)
            main(cfg)

    run = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="base")(run_job)

    @functools.wraps(main)
    def start(cfg: DictConfig | None = None) -> None:
        nonlocal composed
        composed = False
        sys.argv[1:] = [convert_group_override(word) for word in sys.argv[1:]]
        try:
            # With this variable Hydra raises its errors; without it, Hydra prints them over many lines and exits.
            with env_override({"HYDRA_FULL_ERROR": "1"}):
                run(cfg)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            if composed:  # then `main` raised it, so it is a bug and keeps its traceback
                raise
            with exit_on_mistake():
                raise UserError(explain_composition_error(error, sys.argv[1:])) from error

    return start


def convert_group_override(word: str) -> str:
    """Return `task.model=vit_tiny` as `task/model=vit_tiny`, the form that Hydra needs for a choice from a group.

    Only overrides of groups (folders of `CONFIGS`) are converted, also with several choices for a multirun
    (`task.model=vit_tiny,resnet18`). All other words are returned unchanged.
    """
    name, _, choices = word.partition("=")
    is_choice = re.fullmatch(r"\w+(\.\w+)+", name) and re.fullmatch(r"[\w-]+(,[\w-]+)*", choices)
    if is_choice and is_group(name.replace(".", "/")):
        return f"{name.replace('.', '/')}={choices}"
    return word


def to_plain(section: DictConfig) -> dict[str, Any]:
    """Return a section of the configuration as plain Python values, because other packages do not use OmegaConf."""
    return cast(dict[str, Any], OmegaConf.to_container(section, resolve=True))


def list_typed_overrides() -> list[str]:
    """Return the overrides on the command line; an empty list for a command that was called with a configuration."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def format_sweep_suffix() -> str:
    """Return the swept overrides of this job of a multirun (-m) as a folder name; an empty string for a single run."""
    hydra_config = HydraConfig.get()
    if hydra_config.mode != RunMode.MULTIRUN:
        return ""
    typed = OverridesParser.create().parse_overrides([word for word in sys.argv[1:] if "=" in word])
    swept = {override.get_key_element() for override in typed if override.is_sweep_override()}
    return ",".join(word for word in hydra_config.overrides.task if word.partition("=")[0] in swept).replace("/", ".")


def configure_machine(trainer: DictConfig) -> None:
    """Check the `trainer` section, choose the device, log it and write it into `trainer.accelerator`.

    Training, sampling and scoring then use the same device. Lightning's own choice could be an accelerator on which
    this code is untested.

    Raises:
        UserError: A value is invalid, a GPU is needed but not found, or several devices are set without trainer=ddp.
    """
    if trainer.get("_target_") == f"{make_trainer.__module__}.{make_trainer.__qualname__}":
        known = ("_target_", "_partial_", *inspect.signature(Trainer.__init__).parameters)
        require_known("trainer", map(str, trainer), known)
    accelerator, devices, precision = trainer.accelerator, trainer.get("devices", 1), trainer.get("precision", TF32)
    if precision not in PRECISIONS:  # other modes of Lightning cast the network permanently, which scoring cannot undo
        raise UserError(
            f"trainer.precision={precision} is invalid: expected one of {', '.join(PRECISIONS)}. "
            f"Set trainer.precision={TF32}"
        )
    if devices != "auto" and (type(devices) is not int or devices < 1):
        raise UserError(
            f"trainer.devices={devices} is invalid: expected a number of devices or auto. "
            "Set trainer.devices=1, or CUDA_VISIBLE_DEVICES to choose which GPUs are used"
        )
    if devices != 1 and trainer.get("strategy") != "ddp_spawn":
        raise UserError(
            f"trainer.devices={devices} is invalid without trainer=ddp. Set trainer=ddp to train on several GPUs, "
            "or set CUDA_VISIBLE_DEVICES to choose one GPU"
        )
    on_gpu = pick_device(accelerator).type == "cuda"
    if accelerator in ("gpu", "cuda") and not on_gpu:
        raise UserError(
            f"trainer.accelerator={accelerator} is invalid, because no GPU was found. Set trainer=auto or trainer=cpu"
        )
    if "16" in str(precision) and not on_gpu:  # on CPUs it is slow, or crashes with "Illegal instruction"
        raise UserError(f"trainer.precision={precision} needs a GPU. Set trainer.precision={TF32}")
    if trainer.get("deterministic", False) not in (True, False, "warn"):
        raise UserError(
            f"trainer.deterministic={trainer.deterministic} is invalid: expected true, false or warn. "
            "Set trainer.deterministic=true"
        )
    if trainer.get("deterministic"):
        use_deterministic_algorithms(warn_only=trainer.deterministic == "warn")
    if on_gpu:
        log.info("Running on %s", torch.cuda.get_device_name())
    else:
        log.info(
            "Running on the CPU (%d threads)%s",
            torch.get_num_threads(),
            "" if accelerator == "cpu" else ", because no GPU was found",
        )
    trainer.accelerator = "cuda" if on_gpu else "cpu"


def use_deterministic_algorithms(*, warn_only: bool) -> None:
    """Set deterministic algorithms for the whole process, because sampling and scoring do not use the Trainer."""
    # cuBLAS is deterministic only with a workspace of fixed size.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
