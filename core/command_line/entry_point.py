"""What both command lines share: Hydra, one sentence for a user's mistake, the folder that a run writes to."""

import functools
import logging
import os
import re
import sys
from collections.abc import Callable

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from core.command_line.ranges import check_ranges
from core.runtime.errors import UserError, sentence
from core.runtime.provenance import ROOT
from core.runtime.trainer import PRECISIONS, TF32, pick_device

log = logging.getLogger(__name__)
CONFIGS = ROOT / "configs"


def entry_point(main: Callable[[DictConfig], None]) -> Callable[..., None]:
    """Run `main(cfg)` under Hydra with configs/base.yaml; a file of a configuration group may be chosen with dots.

    A `UserError`, or a configuration value that does not resolve, ends in one sentence on stderr and exit status 1;
    Ctrl-C in status 130. Anything else is a bug of ours and keeps its traceback.
    """

    @functools.wraps(main)
    def explained(cfg: DictConfig) -> None:
        try:
            OmegaConf.resolve(cfg)
            check_ranges(cfg)
            settle_machine(cfg.trainer)
            main(cfg)
        except (UserError, OmegaConfBaseException, InstantiationException, MisconfigurationException) as error:
            sys.exit(f"error: {sentence(error)}")
        except (KeyboardInterrupt, SystemExit) as stop:  # inside a fit, Lightning turns Ctrl-C into SystemExit(1)
            if not isinstance(stop, KeyboardInterrupt) and not isinstance(stop.__context__, KeyboardInterrupt):
                raise
            log.info("stopped; the same command goes on from here")
            sys.exit(130)

    run = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="base")(explained)

    @functools.wraps(main)
    def started(cfg: DictConfig | None = None) -> None:
        sys.argv[1:] = [with_slashes(word) for word in sys.argv[1:]]
        run(cfg)

    return started


def with_slashes(word: str) -> str:
    """`task.model=vit_tiny` as `task/model=vit_tiny`, the way Hydra wants it, where configs/task/model is a folder of choices.

    Lists of a multirun (`task.model=vit_tiny,resnet18`) too. Every other word stays as it is.
    """
    name, _, choices = word.partition("=")
    is_choice = re.fullmatch(r"\w+(\.\w+)+", name) and re.fullmatch(r"[\w-]+(,[\w-]+)*", choices)
    if is_choice and CONFIGS.joinpath(*name.split(".")).is_dir():
        return f"{name.replace('.', '/')}={choices}"
    return word


def sweep_suffix() -> str:
    """In a multirun (-m), the swept overrides of this job, so that jobs do not share a folder; else empty."""
    hydra_config = HydraConfig.get()
    if hydra_config.mode != RunMode.MULTIRUN:
        return ""
    typed = OverridesParser.create().parse_overrides([word for word in sys.argv[1:] if "=" in word])
    swept = {override.get_key_element() for override in typed if override.is_sweep_override()}
    return ",".join(word for word in hydra_config.overrides.task if word.partition("=")[0] in swept).replace("/", ".")


def settle_machine(trainer: DictConfig) -> None:
    """Say on what this runs, and write it into the configuration: training, sampling and scoring share one choice.

    Left to itself, Lightning would also take accelerators that nothing here was tried on.

    Raises:
        UserError: an unknown precision, a GPU that is not there (16 bits need one, too), or several devices without
            trainer=ddp.
    """
    accelerator, devices, precision = trainer.accelerator, trainer.get("devices", 1), trainer.get("precision", TF32)
    if precision not in PRECISIONS:  # Lightning's others cast the whole network for good, which scoring cannot undo
        raise UserError(
            f"trainer.precision={precision}: expected one of {', '.join(PRECISIONS)}; set trainer.precision=32-true"
        )
    if devices != "auto" and (type(devices) is not int or devices < 1):
        raise UserError(
            f"trainer.devices={devices}: expected a number of devices or auto; set CUDA_VISIBLE_DEVICES to choose which"
        )
    if devices != 1 and trainer.get("strategy") != "ddp_spawn":
        raise UserError(
            f"trainer.devices={devices}: expected 1; give trainer=ddp for several GPUs, or set CUDA_VISIBLE_DEVICES to choose one"
        )
    on_gpu = pick_device(accelerator).type == "cuda"
    if accelerator in ("gpu", "cuda") and not on_gpu:
        raise UserError(f"trainer.accelerator={accelerator}, but no GPU was found; give trainer=auto or trainer=cpu")
    if (
        "16" in str(precision) and not on_gpu
    ):  # on some CPUs torch then ends in "Illegal instruction", on the others it is slow
        raise UserError(f"trainer.precision={precision} needs a GPU; give trainer.precision=32-true")
    if trainer.get("deterministic"):  # here as well as in each Trainer, since sampling and scoring have none
        os.environ.setdefault(
            "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
        )  # cuBLAS repeats its sums only with a workspace of fixed size
        torch.use_deterministic_algorithms(True, warn_only=trainer.deterministic == "warn")
    if on_gpu:
        log.info("running on %s", torch.cuda.get_device_name())
    else:
        log.info(
            "running on the CPU (%d threads)%s",
            torch.get_num_threads(),
            "" if accelerator == "cpu" else ": no GPU was found",
        )
    trainer.accelerator = "cuda" if on_gpu else "cpu"
