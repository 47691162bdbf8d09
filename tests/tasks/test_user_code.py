"""The user's own code: what it must return, and errors that name the option, the function and the wrong part."""

import sys
import textwrap

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from core.runtime.errors import UserError
from tasks.user_code import call_user_code, call_user_task, check_split

MODULE = """
import torch
from torch.utils.data import TensorDataset

from core.evaluation.scores import Metric, Scores
from tasks.objectives.objective import Objective, ScoreCounter

def make_images(count, label=0):
    return TensorDataset(torch.zeros(count, 1, 4, 4), torch.full((count,), label))

splits = {"train": make_images(6), "val": make_images(4), "test": make_images(5)}
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))

def task():
    return network, splits

def add(first, second):
    return first + second

def fail():
    raise KeyError("no such thing")

def return_list():
    return [network, splits]

def return_list_of_splits():
    return network, list(splits)

def without_test():
    return network, {name: splits[name] for name in ("train", "val")}

def empty_train():
    return network, {**splits, "train": []}

def misfit():
    return torch.nn.Linear(3, 3), splits

def return_pair():
    class Pair(torch.nn.Module):
        def forward(self, images):
            return images, images
    return Pair(), splits

def return_images():
    return torch.nn.Identity(), splits

def with_ood():
    return network, {**splits, "ood": {"noise": make_images(7, label=999)}}

def list_of_ood():
    return network, {**splits, "ood": [make_images(7)]}

def ood_named_test():
    return network, {**splits, "ood": {"test": make_images(7)}}

class Regression(Objective):
    metric = Metric("RMSE", "meters", higher_is_better=False)

    def compute_loss(self, network, inputs, targets):
        return (network(inputs)[:, 0] - targets).square().mean()

    def count_scores(self, num_models, device, temperature_P=None):
        return Counter(self.metric)

class Counter(ScoreCounter):
    def __init__(self, metric):
        self.metric, self.errors = metric, []

    def add(self, predictions, targets):
        self.errors += [values[:, :, 0] - targets for _, values in predictions]

    def finish(self):
        mse_M = torch.cat(self.errors, dim=1).square().mean(dim=1).numpy()
        return Scores(mse_M**0.5, mse_M, None, metric=self.metric)

lengths = TensorDataset(torch.zeros(5, 2), torch.full((5,), 3.0))
measured = {"train": lengths, "val": lengths, "test": lengths}

def regression():
    return torch.nn.Linear(2, 1), measured, Regression()

def another_metric():
    class Renamed(Regression):
        def count_scores(self, num_models, device, temperature_P=None):
            return Counter(Metric("MSE", "square meters", higher_is_better=False))
    return torch.nn.Linear(2, 1), measured, Renamed()

def no_objective():
    return torch.nn.Linear(2, 1), measured, "regression"

def no_pairs():
    return torch.nn.Linear(2, 1), {**measured, "val": TensorDataset(torch.zeros(5, 2))}, Regression()

def no_items():
    return torch.nn.Linear(2, 1), {**measured, "test": 3}, Regression()

def objective_of_other_items():
    return torch.nn.Linear(3, 1), measured, Regression()

def ood_of_another_shape():
    return network, {**splits, "ood": {"noise": TensorDataset(torch.zeros(2, 1, 5, 4), torch.zeros(2))}}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Run in a folder that holds the user's module."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "users_module.py").write_text(textwrap.dedent(MODULE))
    yield tmp_path
    sys.modules.pop("users_module", None)


def test_a_callable_gets_the_arguments():
    assert call_user_code("users_module:add", "task.model.name", {"first": 1, "second": 2}) == 3


@pytest.mark.parametrize("path", ["users_module", ":add", "users_module:", "users_module:1"])
def test_a_path_of_another_form_is_refused(path):
    with pytest.raises(UserError, match=f"task.model.name={path} is invalid: expected package.module:name"):
        call_user_code(path, "task.model.name")


def test_a_missing_function_is_named_with_its_module():
    with pytest.raises(UserError, match=r"task\.model\.name=users_module:ad: the module users_module has no .* ad\."):
        call_user_code("users_module:ad", "task.model.name")


def test_a_missing_module_is_named_with_the_folder(folder):
    with pytest.raises(UserError, match=f"task.model.name=no_module:add: .*no_module.*{folder}"):
        call_user_code("no_module:add", "task.model.name")


def test_an_error_in_the_users_code_is_named_with_its_line():
    line = MODULE.splitlines().index('    raise KeyError("no such thing")') + 1
    with pytest.raises(UserError, match=rf"KeyError: 'no such thing' \(users_module\.py, line {line}\)"):
        call_user_code("users_module:fail", "task.model.name")


def test_a_network_and_its_images_are_returned_with_their_facts():
    model, data = call_user_task("users_module:task")
    assert isinstance(model, nn.Sequential) and (len(data.train), len(data.val), len(data.test)) == (6, 4, 5)
    assert data.facts == {"num_classes": 3, "channels": 1, "image_size": 4}


def test_a_task_with_its_own_objective_is_returned_without_facts_about_images():
    _, data = call_user_task("users_module:regression")
    assert data.objective.metric.name == "RMSE" and data.facts == {} and len(data.test) == 5
    scores = data.objective.count_scores(2, torch.device("cpu"))
    scores.add([(slice(0, 2), torch.tensor([[[3.0], [3.0]], [[5.0], [1.0]]]))], torch.tensor([3.0, 3.0]))
    assert scores.finish().accuracy_M.tolist() == [0.0, 2.0]


def test_sets_of_images_without_a_class_are_returned_with_the_label_0():
    _, data = call_user_task("users_module:with_ood")
    assert len(data.ood["noise"]) == 7 and data.ood["noise"][6][1] == 0
    assert call_user_task("users_module:task")[1].ood == {}


@pytest.mark.parametrize("function, told", [
    ("list_of_ood", r'"ood" is list\. Return a dictionary'),
    ("ood_named_test", r"the ood set test has the name of a split"),
    ("ood_of_another_shape", r"the ood set noise holds images of shape \(1, 5, 4\), but .* shape \(1, 4, 4\)"),
    ("return_list", r"returned list, but the function must return \(model, .*train.*val.*test"),
    ("return_list_of_splits", r"returned \(Sequential, list\), but"),
    ("without_test", r"split test is missing.*Return a dataset for each of train, val, test"),
    ("empty_train", r"the split train cannot give its first item \(IndexError"),
    ("another_metric", "the scores have the metric MSE, but the objective has RMSE"),
    ("no_objective", r"returned \(Linear, dict, str\), but .*Objective as third value"),
    ("no_pairs", r"the items of the split val are no pairs"),
    ("no_items", r"the split test cannot give its first item \(TypeError"),
    ("objective_of_other_items", r"cannot score the first items of val \(RuntimeError"),
    ("misfit", r"cannot take the first image of val, of shape \(1, 4, 4\) \(RuntimeError"),
    ("return_pair", r"the network returned tuple for one image.*logits"),
    ("return_images", r"the network returned Tensor of shape \(1, 1, 4, 4\).*logits"),
])  # fmt: skip
def test_a_function_that_returns_something_else_is_refused_with_the_wrong_part(function, told):
    with pytest.raises(UserError, match=rf"task\.score_with=users_module:{function}\b.*{told}"):
        call_user_task(f"users_module:{function}")


@pytest.mark.parametrize("images, labels, told", [
    (torch.zeros(2, 4, 4), torch.zeros(2), r"\(Tensor of shape \(4, 4\), Tensor\)"),
    (torch.zeros(2, 1, 4, 4), torch.full((2,), 0.5), r"\(Tensor of shape \(1, 4, 4\), Tensor\)"),
])  # fmt: skip
def test_items_that_are_not_an_image_with_an_integer_label_are_refused(images, labels, told):
    with pytest.raises(UserError, match=rf"the split val has the first item {told}.*integer label"):
        check_split(TensorDataset(images, labels), "the split val")
