"""Damage to every kind of file that a command reads: it is refused by name with what to do, or it changes nothing."""

import json
import pickle
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from core.checkpoints import shards
from core.checkpoints.checkpoint_set import CheckpointSet
from core.evaluation.scores import ScoreTable
from core.generation.generator_file import load_generator
from core.publishing.generated_models import GeneratedModels
from core.runtime.arrays import open_arrays, save_arrays
from core.runtime.artifacts import load_artifact, read_json, save_artifact, write_json
from core.runtime.errors import UserError
from core.runtime.run_directory import RunDirectory
from core.runtime.training_state import TrainingStateIO, hash_state, read_saved_step
from tests.core.evaluation.tables import scores, table

WHAT_TO_DO = r"Restore|Delete|[Rr]emove|Set |Create the file again|Run |scores this source again|starts from step 0"
FLIPS = 30  # of each region of a file


@dataclass(frozen=True)
class Kind:
    """One kind of file."""

    file: str  # the file that is damaged, relative to a folder
    save: Callable[[Path, Any], None]  # writes it, and the files that belong to it, into a folder
    load: Callable[[Path], Any]  # reads it from the folder, as nested mappings and sequences of tensors and values


def read_checkpoints(folder: Path) -> Any:
    loaded = CheckpointSet.load(folder / "checkpoints.safetensors")
    return [loaded.vectors_KD, loaded.accuracy_K, dict(loaded.network), dict(loaded.settings), dict(loaded.provenance)]


def read_models(folder: Path) -> Any:
    loaded = GeneratedModels.load(folder)
    return [loaded.vectors_MD, dict(loaded.network), repr(loaded.subset), loaded.identity]


def read_table(folder: Path) -> Any:
    loaded = ScoreTable.load(folder / "p_diff.npz")
    return repr({name: getattr(loaded, name) for name in ("vectors_MD", "scores", "identity", "seconds")})


def read_history(folder: Path) -> Any:
    with open_arrays(folder / "x.npz", content="trajectories", advice="Run it again") as arrays:
        return repr(arrays["accuracy"])


def save_models(folder: Path, made: Any) -> None:
    GeneratedModels(
        vectors_MD=made.checkpoints.vectors_KD[:3],
        subset=made.checkpoints.subset,
        network=made.checkpoints.network,
        seed=3,
        generator="0123",
    ).save(folder)


def save_state(folder: Path, made: Any) -> None:
    state = {
        "global_step": 7,
        "state_dict": {"weight": torch.randn(9)},
        "optimizer_states": [{"step": torch.tensor(7)}],
    }
    TrainingStateIO().save_checkpoint(state, folder / "autoencoder.ckpt")


def read_state(folder: Path) -> Any:
    if read_saved_step(folder / "autoencoder.ckpt") is None:  # with a warning, after which the training starts again
        raise UserError("the log names the file")
    return TrainingStateIO().load_checkpoint(folder / "autoencoder.ckpt")


KINDS = {
    "checkpoints": Kind(
        "checkpoints.safetensors",
        lambda folder, made: made.checkpoints.save(folder / "checkpoints.safetensors"),
        read_checkpoints,
    ),
    "shard": Kind(
        "checkpoints-vectors-00001.safetensors",
        lambda folder, made: made.checkpoints.save(folder / "checkpoints.safetensors"),
        read_checkpoints,
    ),
    "generator": Kind(
        "generator.safetensors",
        lambda folder, made: made.generator.save(folder / "generator.safetensors"),
        lambda folder: dict(load_generator(folder / "generator.safetensors").state_dict()),
    ),
    "generated vectors": Kind("vectors.safetensors", save_models, read_models),
    "generated network": Kind("network.safetensors", save_models, read_models),
    "optimizer": Kind(
        "optimizer.safetensors",
        lambda folder, made: save_artifact(
            folder / "optimizer.safetensors", "optimizer", {"optimizer/w/exp_avg": torch.randn(60)}, metadata={}
        ),
        lambda folder: load_artifact(folder / "optimizer.safetensors", "optimizer", "Delete it")[0],
    ),
    "finished stage": Kind(
        "autoencoder.safetensors",
        lambda folder, made: save_artifact(
            folder / "autoencoder.safetensors", "stage", {"w": torch.randn(60)}, metadata={"seconds": 1.5}
        ),
        lambda folder: list(load_artifact(folder / "autoencoder.safetensors", "stage")),
    ),
    "training state": Kind("autoencoder.ckpt", save_state, read_state),
    "scores": Kind(
        "p_diff.npz",
        lambda folder, made: table("p_diff", scores([0.5, 0.25]), scores([0.5, 0.25])).save(folder / "p_diff.npz"),
        read_table,
    ),
    "arrays": Kind(
        "x.npz",
        lambda folder, made: save_arrays(folder / "x.npz", {"accuracy": made.checkpoints.accuracy_K.numpy()}),
        read_history,
    ),
    **{
        name: Kind(
            name,
            lambda folder, made, name=name: write_json(folder / name, {"seed": 3, "table": [{"mean": 0.5}]}),
            lambda folder, name=name: read_json(folder / name),
        )
        for name in ("settings.json", "metrics.json", "provenance.json")
    },
}
SAFETENSORS = [name for name, kind in KINDS.items() if kind.file.endswith(".safetensors")]


def find_kind(whole: bytes) -> str:
    """Return the kind that the header of a safetensors file names."""
    return json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])["__metadata__"]["kind"]


@dataclass
class Saved:
    """A saved file of one kind, whose content can be replaced."""

    kind: Kind
    folder: Path
    caplog: Any

    def __post_init__(self):
        self.path = self.folder / self.kind.file
        self.whole, self.content = self.path.read_bytes(), hash_state(self.kind.load(self.folder))

    def refuses(self, content: bytes, *, may_be_unchanged: bool = False) -> str:
        """Replace the file, and return the error of reading it; an empty text for the content that was written."""
        self.path.write_bytes(content)
        self.caplog.clear()
        try:
            loaded = self.kind.load(self.folder)
        except UserError as error:
            told = f"{error}{self.caplog.text}"
            assert self.kind.file in told and re.search(WHAT_TO_DO, told) and "\n" not in str(error), told
            return told
        assert may_be_unchanged and hash_state(loaded) == self.content, "a damaged file was read as if it were whole"
        return ""


@pytest.fixture(params=list(KINDS))
def saved(request, tmp_path, tiny_checkpoints, tiny_generator, monkeypatch, caplog) -> Saved:
    return make_saved(request.param, tmp_path, tiny_checkpoints, tiny_generator, monkeypatch, caplog)


def make_saved(name, folder, checkpoints, generator, monkeypatch, caplog) -> Saved:
    if name == "shard":
        monkeypatch.setattr(shards, "SHARD_BYTES", 1000)

    class Made:
        pass

    made = Made()
    made.checkpoints, made.generator = checkpoints, generator
    KINDS[name].save(folder, made)
    return Saved(KINDS[name], folder, caplog)


def split_regions(whole: bytes) -> dict[str, range]:
    """Return the regions of a file: length, header and tensors of a safetensors file, or begin, middle and end."""
    length = int.from_bytes(whole[:8], "little")
    if 8 < length < len(whole):
        return {"length": range(8), "header": range(8, 8 + length), "tensors": range(8 + length, len(whole))}
    middle = min(100, len(whole) // 2)
    return {
        "begin": range(middle),
        "middle": range(middle, len(whole) - middle),
        "end": range(len(whole) - middle, len(whole)),
    }


def test_a_flipped_bit_in_any_region_is_refused_or_changes_no_number(saved):
    chosen, noticed = random.Random(0), 0
    for positions in split_regions(saved.whole).values():
        for position in chosen.sample(positions, min(FLIPS, len(positions))):
            changed = bytearray(saved.whole)
            changed[position] ^= 1 << chosen.randrange(8)
            # Archives and JSON hold bytes that mean nothing, such as times and blanks.
            meaningless = saved.path.suffix != ".safetensors"
            noticed += bool(saved.refuses(bytes(changed), may_be_unchanged=meaningless))
    assert noticed > FLIPS


def test_what_a_crash_or_a_wrong_download_leaves_is_refused(saved):
    size = len(saved.whole)
    for kept in sorted({0, 1, 7, 8, 9, 20, size // 3, size // 2, size - 100, size - 2} & set(range(size))):
        saved.refuses(saved.whole[:kept])
    for content in (b"<html>404 Not Found</html>" * 20, bytes(size), random.Random(1).randbytes(size)):
        saved.refuses(content)


def make_traps(folder: Path) -> Iterator[bytes]:
    """Yield files that would make the file "sprung" if they were read by a program that runs code from them."""

    class Trap:
        def __reduce__(self):
            return (folder / "sprung").touch, ()

    yield pickle.dumps(Trap())
    torch.save({"state_dict": Trap()}, folder / "trap.pth")
    yield (folder / "trap.pth").read_bytes()
    np.savez(folder / "trap.npz", vectors=np.array([Trap()], dtype=object))
    yield (folder / "trap.npz").read_bytes()


def test_a_file_that_would_run_code_is_refused_and_runs_none(saved):
    for content in make_traps(saved.folder):
        saved.refuses(content)
        assert not (saved.folder / "sprung").exists()


@pytest.mark.parametrize("name", SAFETENSORS)
@pytest.mark.parametrize("length", [0, 1, 2**31, 2**40, 2**63, 2**64 - 1])
def test_an_absurd_length_of_the_header_is_refused(
    name, length, tmp_path, tiny_checkpoints, tiny_generator, monkeypatch, caplog
):
    saved = make_saved(name, tmp_path, tiny_checkpoints, tiny_generator, monkeypatch, caplog)
    saved.refuses(length.to_bytes(8, "little") + saved.whole[8:])


@pytest.mark.parametrize("name", SAFETENSORS)
def test_a_file_of_another_kind_or_version_is_refused(
    name, tmp_path, tiny_checkpoints, tiny_generator, monkeypatch, caplog
):
    saved = make_saved(name, tmp_path, tiny_checkpoints, tiny_generator, monkeypatch, caplog)
    other = tmp_path / "other.safetensors"
    save_artifact(other, "something else", {"w": torch.zeros(3)}, metadata={})
    assert "something else" in saved.refuses(other.read_bytes())
    save_file({"w": torch.zeros(3)}, other)
    saved.refuses(other.read_bytes())
    kind = find_kind(saved.whole)
    save_artifact(other, kind, {"w": torch.zeros(3)}, metadata={}, version=0)
    assert "format version 0" in saved.refuses(other.read_bytes())


def test_the_settings_of_a_run_are_never_replaced_when_they_are_damaged(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.begin({}, {"seed": 0}, "train")
    settings = run.path / "settings.json"
    for content in ("", "{", settings.read_text().replace('"seed": 0', '"seed": 1')):
        settings.write_text(content)
        with pytest.raises(UserError, match=r"settings\.json.*Restore or delete the file"):
            run.begin({}, {"seed": 0}, "train")
        assert settings.read_text() == content and not run.path.with_name("run.1").exists()
