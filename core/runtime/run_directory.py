"""One folder per run: every path in it, and what happens when it is already there."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from core.runtime.artifacts import read_json, replacing, write_json
from core.runtime.errors import UserError
from core.runtime.provenance import provenance
from core.runtime.settings import describe, differences

log = logging.getLogger(__name__)
SCORES = "scores"


class RunDirectory:
    """Paths of one run of `train_p_diff.py`; the layout is documented in README.md."""

    def __init__(self, path: Path):
        self.path = path
        self.training_state = path / "training_state"
        self.generator = path / "generator.safetensors"
        self.config = path / "config.yaml"
        self.provenance = path / "provenance.json"
        self.metrics = path / "metrics.json"
        self.report = path / "report"
        self.generated = path / "generated"
        self.trajectories = path / "trajectories.npz"
        self.training_history = path / "training_history.npz"
        self._settings = path / "settings.json"  # not in training_state, which may be deleted once the run is finished

    def scores(self, source: str) -> Path:
        """Return where the score table of one source lies."""
        return self.path / SCORES / f"{source}.npz"

    @staticmethod
    def shared_scores(checkpoints: Path, identity: str, source: str) -> Path:
        """Return where every run over a checkpoints file finds the table of a source that needs no generator.

        Args:
            checkpoints: the file; its scores lie beside it.
            identity: of everything that the shared tables depend on.
            source: its name.
        """
        return checkpoints.parent / SCORES / identity / f"{source}.npz"

    def begin(self, config: Mapping[str, Any], settings: Mapping[str, Any], mode: str) -> None:
        """Claim the folder for a run with these training settings, and record the command.

        Training with the settings of the run that is there goes on with it. Training with others moves that run
        aside, whole, and says so. Any other mode needs the run to be there with the same settings.

        Raises:
            UserError: mode is not "train" and there is no run, or one with other settings; the folder is not writable.
        """
        if mode != "train" and not self._settings.is_file():
            raise UserError(
                f"there is no trained run in {self.path}; train one with mode=train, "
                "or say with output_dir=FOLDER where it is"
            )
        if self._settings.is_file() and (differing := differences(read_json(self._settings), settings)):
            if mode != "train":
                raise UserError(
                    f"the run in {self.path} was trained with other settings ({describe(differing)}); "
                    "give the same ones, or output_dir= of another run"
                )
            aside = self._move_aside()
            log.info("the run with other settings (%s) was moved to %s", describe(differing), aside)
        if mode == "train":
            if not self._settings.is_file():
                # A run that matches keeps its own settings, which may leave open what is asked for now.
                write_json(self._settings, settings)
            with replacing(self.config) as temporary:
                OmegaConf.save(OmegaConf.create(dict(config)), temporary, resolve=True)
        self.record(mode)

    def record(self, mode: str) -> None:
        """Keep the command, commit, versions and machine of this call; one entry per mode, the last one."""
        commands = read_json(self.provenance) if self.provenance.is_file() else {}
        write_json(self.provenance, {**commands, mode: provenance()})

    def _move_aside(self) -> Path:
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        try:
            return self.path.rename(aside)
        except OSError as error:
            raise UserError(
                f"cannot move the earlier run {self.path} to {aside} ({error.strerror}); choose another output_dir"
            ) from error
