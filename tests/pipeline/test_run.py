"""Tests of the pipeline through its entry points: files that it writes, repeated runs, and reuse of files."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file

import task_training
from core.checkpoints.checkpoint_set import CheckpointSet
from core.checkpoints.subset import unflatten
from core.evaluation.scores import ScoreTable
from core.generation.generator_file import load_generator
from core.publishing.generated_models import GeneratedModels
from core.report.page import write_page
from core.runtime.errors import UserError
from tests.core.tiny import sampler_recipe
from tests.digits import normalized_digits
from tests.pipeline.conftest import assert_names

RUN = "outputs/digits_test_resnet/ae_ddpm"
CHECKPOINTS = "param_data/digits_test_resnet/checkpoints.safetensors"
SOURCES = [
    "original", "ensemble", "p_diff", "reconstructed", "noised_0.05", "noised_0.15", "average_3", "interpolated",
    "gaussian", "gaussian_full", "swag", "ema", "lawa", "continued", "finetuned_2", "finetuned_3", "laplace",
]  # fmt: skip


def test_a_run_writes_what_the_readme_promises(workplace):
    run = workplace.path / RUN
    for name in (
        "config.yaml",
        "provenance.json",
        "metrics.json",
        "metrics.jsonl",
        "generator.safetensors",
        "report/table.md",
        "generated/000.safetensors",
        "generated/network.safetensors",
        "generated/vectors.safetensors",
    ):
        assert (run / name).is_file(), name
    assert {path.stem for path in (run / "scores").iterdir()} == {*SOURCES, "soup_original", "soup_p_diff"}
    assert any(run.glob("tensorboard/events*"))
    assert not list(run.rglob("*.tmp"))
    assert yaml.safe_load((run / "config.yaml").read_text())["task"]["data"]["dataset"] == "digits"
    assert {"command", "git", "versions", "device"} <= json.loads((run / "provenance.json").read_text())["train"].keys()
    stages = {json.loads(line)["stage"] for line in (run / "metrics.jsonl").read_text().splitlines()}
    assert stages == {"autoencoder", "diffusion"}


def test_metrics_follow_the_contract(workplace):
    metrics = workplace.metrics()
    rows = {row["source"]: row for row in metrics["table"]}
    assert list(rows) == [*SOURCES, "soup_original", "soup_p_diff"]
    assert [rows[source]["n"] for source in SOURCES] == [6, 1, 5, 3, 3, 3, 3, 3, 3, 3, 3, 1, 1, 1, 2, 2, 2]
    for row in rows.values():
        assert 0 <= row["accuracy_worst"] <= row["accuracy_median"] <= row["accuracy_best"] <= 1
        assert 0 <= row["max_iou_mean"] <= 1 and row["min_l2_mean"] >= 0
    costs = {source: row["gradient_evaluations"] for source, row in rows.items() if "gradient_evaluations" in row}
    assert costs["p_diff"] == pytest.approx((6 + 6) / 5) and costs["finetuned_3"] == 3 and costs["continued"] == 2
    assert costs["laplace"] > 0 and costs["swag"] == 0 and "original" not in costs
    assert "accuracy_std" not in rows["ensemble"] and "within_iou_mean" not in rows["ensemble"]
    assert set(metrics["seconds"]) == {
        "train_task",
        "collect",
        "autoencoder",
        "diffusion",
        "generate",
        "score",
    }
    assert set(metrics["paper_protocol"]) == set(metrics["held_out_protocol"]) == {"original", "ensemble", "p_diff"}


def test_models_vote_on_test_and_on_images_without_a_class_at_the_temperatures_of_validation(workplace):
    table = ScoreTable.load(workplace.path / RUN / "scores/p_diff.npz")
    val, test = table.scores["val"], table.scores["test"]
    assert test.votes.counts_P.tolist() == [1, 2, 5]
    np.testing.assert_array_equal(test.votes.temperature_P, val.votes.fitted_P)
    assert set(table.ood) == {"phase_scrambled", "splices"}
    for confidence_PN in table.ood.values():
        assert confidence_PN.shape == (3, 300) and (confidence_PN >= 0.1).all() and (confidence_PN <= 1).all()
    single = {row["source"]: row for row in workplace.metrics()["worth"] if row["n_models"] == 1}
    for source in ("ensemble", "ema", "lawa", "soup_original", "soup_p_diff"):
        assert single[source]["temperature"] > 0 and set(single[source]["auroc"]) == set(table.ood)
    _, sizes = np.unique(test.groups_N, return_counts=True)
    assert set(sizes) == {3} and test.loss_MN.shape == test.wrong_MN.shape == (5, len(test.groups_N))


def test_a_rebuilt_report_has_the_same_bytes(workplace):
    folder = workplace.path / "outputs/rebuilt"
    assert workplace.run("train_p_diff.py", "output_dir=outputs/rebuilt").error == 0
    fresh = {path: path.read_bytes() for path in (folder / "report").rglob("*") if path.is_file()}
    shutil.rmtree(folder / "report")
    page = write_page(folder)
    assert page.read_bytes() == fresh[page]
    assert {path: path.read_bytes() for path in (folder / "report").rglob("*") if path.is_file()} == fresh


def test_protocols_choose_on_the_split_they_name(workplace):
    table = ScoreTable.load(workplace.path / RUN / "scores/original.npz")
    metrics = workplace.metrics()
    assert metrics["paper_protocol"]["original"] == table.scores["test"].accuracy_M.max()
    best_on_val = np.flatnonzero(table.scores["val"].accuracy_M == table.scores["val"].accuracy_M.max())
    assert metrics["held_out_protocol"]["original"] in table.scores["test"].accuracy_M[best_on_val]


def test_every_recorded_accuracy_is_reproduced_by_an_independent_forward(workplace):
    checkpoints = CheckpointSet.load(workplace.path / CHECKPOINTS)
    images, labels = normalized_digits(checkpoints.provenance["accuracy_split"])
    model = timm.create_model("test_resnet", num_classes=10, in_chans=1).eval()
    for vector_D, recorded in zip(checkpoints.vectors_KD, checkpoints.accuracy_K, strict=True):
        model.load_state_dict({**checkpoints.network, **unflatten(vector_D, checkpoints.subset)})
        with torch.no_grad():
            right = (model(images).argmax(1) == labels).numpy()
        assert right.mean() == recorded.item()


def test_checkpoints_differ_from_each_other_and_only_in_the_subset(workplace):
    checkpoints = CheckpointSet.load(workplace.path / CHECKPOINTS)
    assert len(torch.unique(checkpoints.vectors_KD, dim=0)) == 6
    assert {name.rsplit(".", 1)[1] for name in checkpoints.subset.names} == {"weight", "bias"}


def test_exported_models_load_into_plain_timm(workplace):
    state = load_file(workplace.path / RUN / "generated/000.safetensors")
    timm.create_model("test_resnet", num_classes=10, in_chans=1).load_state_dict(state)
    generated = ScoreTable.load(workplace.path / RUN / "scores/p_diff.npz").vectors_MD[0]
    subset = load_generator(workplace.path / RUN / "generator.safetensors").subset
    exported = torch.cat([state[name].flatten() for name in subset.names])
    assert np.array_equal(exported.numpy(), generated)


def test_mode_test_gives_the_numbers_of_the_run_that_trained(workplace):
    before = workplace.metrics()
    assert workplace.run("train_p_diff.py", "mode=test").error == 0
    after = workplace.metrics()
    assert {**after, "seconds": {}} == {**before, "seconds": {}}


def test_running_again_reuses_everything(workplace):
    files = [CHECKPOINTS, f"{RUN}/generator.safetensors", f"{RUN}/scores/original.npz"]
    before = {name: (workplace.path / name).stat().st_mtime_ns for name in files}
    metrics = workplace.metrics()
    assert workplace.run("task_training.py").error == 0 and workplace.run("train_p_diff.py").error == 0
    assert {name: (workplace.path / name).stat().st_mtime_ns for name in files} == before
    assert {**workplace.metrics(), "seconds": {}} == {**metrics, "seconds": {}}


def test_checkpoints_may_be_used_with_other_trainer_settings_than_they_were_made_with(workplace):
    elsewhere = "trainer.precision=32-true"
    before = workplace.metrics()["table"]
    assert workplace.run("train_p_diff.py", "mode=test", elsewhere).error == 0
    assert workplace.metrics()["table"] == before
    assert workplace.run("train_p_diff.py", elsewhere, "output_dir=outputs/exact").error == 0
    assert workplace.run("train_p_diff.py", "output_dir=outputs/exact").error == 0, (
        "a run with another precision should train again"
    )
    assert (workplace.path / "outputs/exact.1").is_dir()


def test_a_damaged_score_table_is_made_again(workplace):
    path = workplace.path / RUN / "scores/gaussian.npz"
    whole = path.read_bytes()
    before = workplace.metrics()["table"]
    path.write_bytes(whole[: len(whole) // 2])
    assert workplace.run("train_p_diff.py").error == 0
    assert workplace.metrics()["table"] == before


def test_checkpoints_of_other_images_are_refused_with_the_split_that_differs(workplace):
    made = CheckpointSet.load(workplace.path / CHECKPOINTS)
    images = {**made.provenance["images"], "test": "0123456789abcdef"}
    replace(made, provenance={**made.provenance, "images": images}).save(workplace.path / "other.safetensors")
    for script in ("task_training.py", "train_p_diff.py"):
        error = workplace.refuse(script, "task.param.path=other.safetensors", "output_dir=outputs/other")
        assert_names(error, "test", "digits", "task.data.root=data", "other.safetensors", "task.param.path=FILE")


def test_existing_checkpoints_need_no_images_to_skip_their_training(workplace, monkeypatch):
    def refuse(task):
        raise UserError("no images")

    monkeypatch.setattr(task_training, "open_images", refuse)
    assert workplace.run("task_training.py").error == 0


def test_the_sampler_can_be_changed_without_training_again(workplace):
    run = workplace.path / "outputs/ddim"
    shutil.copytree(workplace.path / RUN, run)
    generator, sampled = (
        (run / "generator.safetensors").read_bytes(),
        ScoreTable.load(run / "scores/p_diff.npz").vectors_MD,
    )
    assert workplace.run("train_p_diff.py", "mode=test", "system/sampler=ddim", "output_dir=outputs/ddim").error == 0
    assert (run / "generator.safetensors").read_bytes() == generator
    assert not np.array_equal(ScoreTable.load(run / "scores/p_diff.npz").vectors_MD, sampled)


def test_fewer_checkpoints_are_the_first_ones_and_the_earlier_run_is_kept(workplace):
    before = workplace.metrics()
    assert workplace.run("train_p_diff.py", "task.param.k=4", "output_dir=outputs/k").error == 0
    assert workplace.run("train_p_diff.py", "task.param.k=3", "output_dir=outputs/k").error == 0
    rows = {name: workplace.metrics(name)["table"][0]["n"] for name in ("outputs/k", "outputs/k.1")}
    assert rows == {"outputs/k": 3, "outputs/k.1": 4}
    first = ScoreTable.load(workplace.path / "outputs/k/scores/original.npz").vectors_MD
    every = ScoreTable.load(workplace.path / RUN / "scores/original.npz").vectors_MD
    assert np.array_equal(first, every[:3]) and workplace.metrics() == before


def test_mode_generate_writes_any_number_of_models_of_any_seed(workplace):
    run = workplace.path / "outputs/generate"
    shutil.copytree(workplace.path / RUN, run)

    def generate(*overrides):
        words = ["mode=generate", "output_dir=outputs/generate", *overrides]
        assert workplace.run("train_p_diff.py", *words).error == 0
        return (run / "generated/README.md").read_text()

    card = generate("generation.num_models=7", "generation.num_exported=2", "seed=7")
    assert "No model in this folder was scored. Row p_diff is about 5 other models, made with seed 42." in card
    assert [path.name for path in sorted((run / "generated").glob("[0-9]*"))] == ["000.safetensors", "001.safetensors"]
    models, generator = GeneratedModels.load(run / "generated"), load_generator(run / "generator.safetensors")
    assert len(models) == 7 and models.seed == 7
    torch.testing.assert_close(models.vectors_MD[5:6], generator.sample(7, [5]))
    exported = load_file(run / "generated/001.safetensors")
    assert all(torch.equal(tensor, exported[name]) for name, tensor in models.state_dict(1).items())

    card = generate("generation.num_models=7")
    assert "Row p_diff is about models 0 to 4 of this folder. The table does not cover models 5 to 6." in card
    assert "another generator or sampler" in generate("system/sampler=ddim")


def test_two_runs_with_one_seed_agree_and_zero_is_a_seed(workplace, empty):
    assert empty.run("task_training.py").error == 0 and empty.run("train_p_diff.py").error == 0
    assert empty.metrics()["table"] == workplace.metrics()["table"]
    first, again = (CheckpointSet.load(place.path / CHECKPOINTS) for place in (workplace, empty))
    assert torch.equal(first.vectors_KD, again.vectors_KD) and torch.equal(first.accuracy_K, again.accuracy_K)
    assert all(torch.equal(tensor, again.network[name]) for name, tensor in first.network.items())
    generators = [load_generator(place.path / RUN / "generator.safetensors") for place in (workplace, empty)]
    assert generators[0].fingerprint == generators[1].fingerprint
    for source in SOURCES:
        tables = [ScoreTable.load(place.path / RUN / f"scores/{source}.npz") for place in (workplace, empty)]
        assert np.array_equal(tables[0].vectors_MD, tables[1].vectors_MD), source
    assert empty.run("task_training.py", "seed=0", "task.param.path=zero.safetensors").error == 0
    assert empty.run("train_p_diff.py", "seed=0", "task.param.path=zero.safetensors").error == 0
    assert empty.metrics()["table"] != workplace.metrics()["table"]
    zero = CheckpointSet.load(empty.path / "zero.safetensors")
    assert zero.settings["task"]["seed"] == 0
    assert not torch.equal(zero.vectors_KD, first.vectors_KD)
    assert zero.provenance["data_fingerprint"] == first.provenance["data_fingerprint"], "the splits follow the seed"


@pytest.mark.parametrize("sampler", ["dpm_solver", "ddpm"])
def test_a_model_of_a_seed_is_the_same_in_a_batch_of_any_size(workplace, sampler):
    recipe = {**sampler_recipe(sampler), "num_steps": 20}
    generator = load_generator(workplace.path / RUN / "generator.safetensors").use_sampler(recipe)
    together_MD = generator.sample(42, range(6))
    for batch_size in (1, 4):
        apart_MD = generator.sample(42, range(6), batch_size=batch_size)
        torch.testing.assert_close(apart_MD, together_MD, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(generator.sample(42, [5]), together_MD[[5]], rtol=1e-5, atol=1e-5)


def test_each_job_of_a_sweep_has_a_folder_named_by_what_is_swept(workplace):
    assert (
        workplace.run(
            "train_p_diff.py", "-m", "system.autoencoder.latent_noise=0,0.2", "output_dir=outputs/sweep"
        ).error
        == 0
    )
    jobs = sorted((workplace.path / "outputs/sweep").iterdir())
    assert [job.name for job in jobs] == ["system.autoencoder.latent_noise=0", "system.autoencoder.latent_noise=0.2"]
    originals, generated = ([workplace.metrics(str(job))["table"][index] for job in jobs] for index in (0, 2))
    assert originals[0] == originals[1] and generated[0] != generated[1]


@pytest.mark.parametrize(
    "overrides",
    [
        [
            "system/denoiser=conv",
            "system/sampler=ddpm",
            "system.schedule.num_timesteps=20",
            "system.sampler.num_steps=20",
        ]
    ],
)
def test_the_papers_denoiser_and_sampler_run(workplace, overrides):
    assert (
        workplace.run(
            "train_p_diff.py", "output_dir=outputs/paper", "system.denoiser.channels=[4,8,4,1]", *overrides
        ).error
        == 0
    )
    assert workplace.metrics("outputs/paper")["table"][2]["n"] == 5
