"""Tests of the classifier on a GPU: precisions, several devices, and the collected checkpoints."""

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning import Callback

from core.checkpoints.subset import resolve_subset
from tasks.collecting.collection import TrainedNetworks
from tasks.networks.build import build_classifier
from tasks.specification import TaskSpec
from tasks.training.train_networks import train_networks
from tests.gpu.tiny import configuration

TASK = (
    "task.model.name=test_resnet",
    "task.epochs=2",
    "task.batch_size=8",
    "task.collect.batch_size=8",
    "task.param.k=7",
)


class Products(Callback):
    """A callback that records the device and the TF32 settings during a fit."""

    def __init__(self):
        self.seen = set()

    def on_train_batch_end(self, trainer, module, *_):
        self.seen.add((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, module.device.type))


def train(cfg, data, state_dir, *extra):
    configured = instantiate(cfg.trainer)

    def make_trainer(*, callbacks, **options):
        return configured(callbacks=[*callbacks, *extra], **options)

    task = TaskSpec.from_config(OmegaConf.to_container(cfg.task, resolve=True))
    return train_networks(task, data, state_dir=state_dir, make_trainer=make_trainer, loggers=())


@pytest.mark.parametrize("precision, tf32", [("tf32", True), ("32-true", False)])
def test_the_classifier_trains_in_the_chosen_precision(device, data, tmp_path, precision, tf32):
    before, products = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32), Products()
    trained = train(configuration(device, *TASK, f"trainer.precision={precision}"), data, tmp_path / "state", products)
    assert products.seen == {(tf32, tf32, device.type)}
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before
    assert all(torch.isfinite(tensor).all() for tensor in trained.model.state_dict().values())
    assert not torch.equal(trained.history_ED[0], trained.history_ED[-1])


def test_collecting_returns_k_different_checkpoints(device, data, tmp_path):
    torch.manual_seed(0)
    model = build_classifier("test_resnet", num_classes=4, channels=3, image_size=16).eval()
    cfg, subset = configuration(device, *TASK), resolve_subset(model, "last_norms")
    task = TaskSpec.from_config(OmegaConf.to_container(cfg.task, resolve=True))
    trained, state_dir = TrainedNetworks(model, subset), tmp_path / "state"
    options = {"make_trainer": instantiate(cfg.trainer), "num_workers": task.data.num_workers, "state_dir": state_dir}
    collected = task.collect.collect_vectors(trained, data, k=task.param.k, seed=task.seed, **options)
    vectors_KD = collected.rows.to_tensor()
    assert collected.optimizer_state.keys() == set(subset.names)
    assert vectors_KD.shape == (7, subset.num_params) and vectors_KD.device.type == "cpu"
    assert torch.isfinite(vectors_KD).all() and len(torch.unique(vectors_KD, dim=0)) == 7


def test_the_classifier_trains_on_all_gpus(gpu, data, tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    trained = train(configuration(gpu, *TASK, trainer="ddp"), data, tmp_path / "state")
    assert all(torch.isfinite(tensor).all() for tensor in trained.model.state_dict().values()) and trained.seconds > 0
    assert not torch.distributed.is_initialized()
