"""The first command, which trains a network on images and collects K checkpoints of its last normalization layers.

    python task_training.py [task=cifar100] [task.param.k=300] [seed=0] …

The checkpoints go to task.param.path, where train_p_diff.py reads them. configs/base.yaml and configs/task/common.yaml
explain the options. Re-run an interrupted command to resume it.
"""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from core.checkpoints.checkpoint_set import CheckpointSet
from core.command_line.entry_point import entry_point, list_typed_overrides, to_plain
from core.report.metric_words import MetricWords
from core.runtime.errors import UserError
from core.runtime.file_lock import hold_lock
from core.runtime.loggers import make_loggers
from core.runtime.progress import Stages
from core.runtime.settings import hash_settings
from core.runtime.trainer import count_devices
from core.training.system import SystemSpec
from tasks.data.other_datasets import read_entries
from tasks.data.splits import TaskData
from tasks.importing.adopt import is_imported
from tasks.scoring.scorer import ScoringSpec
from tasks.specification import TaskSpec
from tasks.task import check_own_task, open_images, require_images
from tasks.training.collect_checkpoints import collect_checkpoints, record_machine
from tasks.training.deep_ensemble import check_deep_ensemble

log = logging.getLogger(__name__)


@entry_point
def main(cfg: DictConfig) -> None:
    """Run the stages images -> network -> K checkpoints, and write the checkpoints to one file."""
    task, scoring = check_settings(cfg)
    path = Path(task.param.path)
    num_devices = count_devices(cfg.trainer.devices, cfg.trainer.accelerator)
    settings = task.record() | record_machine(
        training_precision=cfg.trainer.precision,
        num_devices=num_devices,
        scoring_precision=cfg.scoring.precision,
    )
    check_own_task(task, list_typed_overrides())
    if path.exists():
        require_reusable(task, settings)
        return
    data = open_images(task)  # missing images are found before anything is written
    with hold_lock(path, advice="Set task.param.path=FILE to a file in a writable folder", wait=True):
        if path.exists():  # another command has collected into this file in the meantime
            require_reusable(task, settings)
        else:
            collect(cfg, task, data, settings=settings, scoring=scoring, num_devices=num_devices)


def check_settings(cfg: DictConfig) -> tuple[TaskSpec, ScoringSpec]:
    """Return the task and the scoring, after checking the settings of both commands.

    A mistake in the settings of train_p_diff.py is found here as well, before anything is trained.

    Raises:
        UserError: A setting is invalid, or contradicts another one.
    """
    task = TaskSpec.from_config(to_plain(cfg.task))
    scoring = ScoringSpec.from_config(
        to_plain(cfg.scoring), num_workers=task.data.num_workers, accelerator=cfg.trainer.accelerator
    )
    task.collect.check(task.param.k, cfg.trainer.precision)
    task.check_training()
    SystemSpec.from_config(to_plain(cfg.system)).check()
    check_deep_ensemble(task, cfg.evaluation.deep_ensemble, imported=False)
    if entries := to_plain(cfg.evaluation)["ood"]:
        list(read_entries(entries, task.data))
    return task, scoring


def require_reusable(task: TaskSpec, settings: Mapping[str, Any]) -> None:
    """Check that the existing checkpoints file was made with these settings and images, and say that it is kept.

    Raises:
        UserError: The file was imported, is damaged, or was made with other settings or images.
    """
    path = Path(task.param.path)
    stored = CheckpointSet.load(path)
    if is_imported(stored):
        raise UserError(
            f"{path} already holds imported checkpoints. Run train_p_diff.py on them, "
            "or set task.param.path=FILE to another file to train a classifier"
        )
    stored.require_settings(settings)
    compare_images(task, stored)
    log.info(
        "Skipping training: %s already holds %d checkpoints with these settings (task.param.k=%d), and %d held-out "
        "ones",
        path,
        len(stored),
        len(stored.first(task.param.k)),
        stored.num_held_out,
    )


def collect(
    cfg: DictConfig,
    task: TaskSpec,
    data: TaskData,
    *,
    settings: Mapping[str, Any],
    scoring: ScoringSpec,
    num_devices: int,
) -> None:
    """Train the network, collect its checkpoints and write them to their file."""
    path = Path(task.param.path)
    # The file and the images decide the name of the folder, too, so that no command resumes the training of another.
    state_dir = path.parent / f"training_state_{hash_settings({**settings, 'file': path.name, 'images': data.digests})}"
    checkpoints = collect_checkpoints(
        task,
        data,
        settings=settings,
        state_dir=state_dir,
        make_trainer=instantiate(cfg.trainer),
        loggers=make_loggers(cfg.logger, path.parent),
        stages=Stages(["train_task", "collect"]),
        scoring=scoring,
        num_devices=num_devices,
    )
    checkpoints.save(path)
    # The checkpoints are in their file now, so the command succeeds even if the folder cannot be deleted.
    shutil.rmtree(state_dir, ignore_errors=True)
    words = MetricWords.read(checkpoints.provenance)
    log.info(
        "Wrote %s: %d checkpoints and %d held-out ones of %d parameters, validation %s %s",
        path,
        len(checkpoints),
        checkpoints.num_held_out,
        checkpoints.subset.num_params,
        words.name,
        words.format_range(checkpoints.accuracy_K.tolist()),
    )


def compare_images(task: TaskSpec, stored: CheckpointSet) -> None:
    """Check that existing checkpoints were made with the images of `task`; log a warning if there are no images.

    Raises:
        UserError: The checkpoints were made with other images.
    """
    try:
        data = open_images(task)
    except UserError as error:  # checkpoints can be used to generate models on a machine without images
        log.warning("The images of %s cannot be compared: %s", stored.path, error)
        return
    require_images(task, data, stored)


if __name__ == "__main__":
    main()
