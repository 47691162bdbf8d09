"""A run with a deep ensemble, after a run without one."""

from core.checkpoints.checkpoint_set import CheckpointSet
from core.evaluation.kinds import Kind
from core.evaluation.scores import ScoreTable

RUN = "outputs/digits_test_resnet/ae_ddpm"


def test_a_deep_ensemble_is_added_to_a_finished_run_and_nothing_else_is_scored_again(workplace):
    scores = workplace.path / RUN / "scores"
    before = {path.name: path.stat().st_mtime_ns for path in scores.iterdir()}
    assert workplace.run("train_p_diff.py", "evaluation.deep_ensemble=2").error == 0
    after = {path.name: path.stat().st_mtime_ns for path in scores.iterdir()}
    assert after.keys() - before.keys() == {"deep_ensemble.npz"}
    assert {name: after[name] for name in before} == before

    table = ScoreTable.load(scores / "deep_ensemble.npz")
    checkpoints = CheckpointSet.load(workplace.path / "param_data/digits_test_resnet/checkpoints.safetensors")
    assert table.kind is Kind.TRAINED and table.vectors_MD.shape == (2, checkpoints.subset.num_params)
    assert set(table.scores) == {"val", "test"}
    assert [row["n"] for row in workplace.metrics()["table"] if row["source"] == "deep_ensemble"] == [2]
    worth = {(row["source"], row["n_models"]): row for row in workplace.metrics()["worth"]}
    assert worth["deep_ensemble", 2]["equivalent"] in (1, 2)  # 1 if the vote is worse than its first member
    assert worth["deep_ensemble", 1]["equivalent"] == 1
    vote = worth["p_diff", 5]
    assert vote.keys() >= {"loss_interval", "temperature", "brier", "ece", "aurc", "disagreement", "equivalent"}
    assert set(vote["auroc"]) == set(table.ood) == {"phase_scrambled", "splices"}


def test_a_deep_ensemble_of_one_network_is_refused_before_anything_is_trained(workplace):
    error = workplace.refuse("train_p_diff.py", "evaluation.deep_ensemble=1", "output_dir=other")
    assert "evaluation.deep_ensemble=1" in error and not (workplace.path / "other").exists()
