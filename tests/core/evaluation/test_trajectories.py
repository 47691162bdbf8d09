"""Recording of accuracy along the reverse process, by model and step."""

import numpy as np
import pytest

from core.evaluation.scores import Scores
from core.evaluation.trajectories import RECORDED_STEPS, Trajectories, record_trajectories
from core.runtime.errors import UserError


def first_coordinate(vectors_MD):
    """Score a vector by its first entry, which differs between vectors."""
    value_M = vectors_MD[:, 0].double().numpy()
    return Scores(value_M, -value_M, None)


@pytest.mark.parametrize("num_trajectories", [1, 3, 201])  # 201 is more than one batch of the generator.
def test_each_row_ends_with_the_score_of_its_generated_model(tiny_generator, num_trajectories):
    recorded = record_trajectories(tiny_generator, first_coordinate, seed=5, num_trajectories=num_trajectories)
    assert recorded.accuracy_TS.shape == (num_trajectories, RECORDED_STEPS)
    expected = tiny_generator.sample(5, range(num_trajectories))[:, 0].numpy()
    np.testing.assert_allclose(recorded.accuracy_TS[:, -1], expected, rtol=1e-4, atol=1e-4)


def test_the_first_and_the_last_step_are_recorded(tiny_generator):
    timesteps = []
    tiny_generator.sample(0, [0], on_step=lambda t, x_BL: timesteps.append(t))
    recorded = record_trajectories(tiny_generator, first_coordinate, seed=0, num_trajectories=1).timesteps_S
    assert (recorded[0], recorded[-1]) == (timesteps[0], timesteps[-1]) and (np.diff(recorded) < 0).all()


def test_a_sampler_of_few_steps_records_each_once(tiny_generator):
    tiny_generator.use_sampler({**tiny_generator.recipes["sampler"], "num_steps": 3})
    assert record_trajectories(tiny_generator, first_coordinate, seed=0, num_trajectories=2).accuracy_TS.shape == (2, 3)


def test_trajectories_survive_the_disk_as_plain_arrays(tiny_generator, tmp_path):
    recorded = record_trajectories(tiny_generator, first_coordinate, seed=0, num_trajectories=2)
    recorded.save(tmp_path / "trajectories.npz")
    with np.load(tmp_path / "trajectories.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["accuracy_TS"], recorded.accuracy_TS)
        np.testing.assert_array_equal(file["timesteps_S"], recorded.timesteps_S)
    again = Trajectories.load(tmp_path / "trajectories.npz")
    np.testing.assert_array_equal(again.accuracy_TS, recorded.accuracy_TS)
    np.testing.assert_array_equal(again.timesteps_S, recorded.timesteps_S)


@pytest.mark.parametrize(
    "arrays, problem",
    [
        ({"timesteps_S": np.arange(3), "accuracy_TS": np.zeros((2, 4))}, r".*\(3,\).*\(2, 4\)"),
        ({"timesteps_S": np.arange(0), "accuracy_TS": np.zeros((2, 0))}, r".*\(0,\).*\(2, 0\)"),
        ({"timesteps_S": np.arange(3)}, ".*accuracy_TS"),
        (None, ".*mode=test"),
    ],
    ids=["other steps", "empty", "one absent", "no file"],
)
def test_a_file_without_valid_trajectories_is_named(tmp_path, arrays, problem):
    path = tmp_path / "trajectories.npz"
    if arrays is not None:
        np.savez(path, **arrays)
    with pytest.raises(UserError, match=rf"trajectories\.npz{problem}"):
        Trajectories.load(path)
