"""The folder of one run: its paths, and how an existing folder is resumed, moved aside or refused."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from core.runtime.artifacts import find_free_name, read_json, replace_atomically, write_json
from core.runtime.errors import UserError
from core.runtime.file_lock import hold_lock
from core.runtime.provenance import collect_provenance
from core.runtime.settings import describe_differences, find_differences

log = logging.getLogger(__name__)
SCORES = "scores"


class RunDirectory:
    """The paths of one run of `train_p_diff.py`, which docs/usage.md lists."""

    def __init__(self, path: Path):
        self.path = path
        self.training_state = path / "training_state"
        self.generator = path / "generator.safetensors"
        self.config = path / "config.yaml"
        self.provenance = path / "provenance.json"
        self.metrics = path / "metrics.json"
        self.report = path / "report"
        self.generated = path / "generated"
        self.deep_ensemble = path / "deep_ensemble"
        self.trajectories = path / "trajectories.npz"
        self.training_history = path / "training_history.npz"
        self._settings = path / "settings.json"  # outside training_state, which users may delete

    def scores(self, source: str) -> Path:
        """Return the path of the score table of one source."""
        return self.path / SCORES / f"{source}.npz"

    @staticmethod
    def shared_scores(checkpoints: Path, identity: str, source: str) -> Path:
        """Return the path of a score table that all runs on one checkpoints file share.

        Args:
            checkpoints: The checkpoints file; the shared tables are stored beside it.
            identity: A hash of everything that the shared tables depend on.
            source: The name of a source of weights that needs no generator.
        """
        return checkpoints.parent / SCORES / identity / f"{source}.npz"

    @contextmanager
    def hold(self, mode: str) -> Iterator[None]:
        """Keep other commands from writing into this folder during the block.

        A folder that no run can begin in is not locked, so that a refused command leaves no file.

        Raises:
            UserError: Another process writes into this folder, or the folder around it is not writable.
        """
        with ExitStack() as stack:
            if self.path.is_dir() or (mode == "train" and not self.path.exists()):
                advice = "Wait until it has ended, or set output_dir=FOLDER to another folder"
                stack.enter_context(hold_lock(self.path, advice=advice))
            yield

    def begin(self, config: Mapping[str, Any], settings: Mapping[str, Any], mode: str) -> None:
        """Prepare the folder for a run with these training settings, and record the command.

        In mode "train", a run with equal settings is resumed, and a run with different settings is moved to another
        folder. All other modes need an existing run with equal settings.

        Raises:
            UserError: The folder is not writable, or a mode other than "train" finds no run with these settings.
        """
        if self.path.is_file():
            raise UserError(f"output_dir={self.path} is a file. Set output_dir=FOLDER to a folder")
        if mode != "train" and not self._settings.is_file():
            raise UserError(
                f"no trained run found in {self.path}. Train one with mode=train, "
                "or set output_dir=FOLDER to an existing run"
            )
        if self._settings.is_file() and (differing := find_differences(read_json(self._settings), settings)):
            if mode != "train":
                raise UserError(
                    f"the run in {self.path} was trained with other settings ({describe_differences(differing)}). "
                    "Set the same values, or set output_dir=FOLDER to another run"
                )
            aside = self._move_aside()
            log.info("Moved the existing run with other settings (%s) to %s", describe_differences(differing), aside)
        if mode == "train":
            if not self._settings.is_file():
                # A resumed run keeps its file, which may lack newer settings. `find_differences` treats them as null.
                write_json(self._settings, settings)
            with replace_atomically(self.config) as temporary:
                OmegaConf.save(OmegaConf.create(dict(config)), temporary, resolve=True)
        self.record(mode)

    def record(self, mode: str) -> None:
        """Write the provenance of this command as the entry of its mode, replacing the earlier entry of that mode."""
        commands = read_json(self.provenance) if self.provenance.is_file() else {}
        write_json(self.provenance, {**commands, mode: collect_provenance()})

    def _move_aside(self) -> Path:
        aside = find_free_name(self.path)
        try:
            return self.path.rename(aside)
        except OSError as error:
            raise UserError(
                f"cannot move the existing run {self.path} to {aside} ({error.strerror}). "
                "Set output_dir=FOLDER to another folder"
            ) from error
