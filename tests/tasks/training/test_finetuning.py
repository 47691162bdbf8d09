"""The baseline of fine-tuned checkpoints, which are trained for a few more steps."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

from core.checkpoints.subset import flatten, resolve_subset
from core.runtime.seeding import derive_seed
from tasks.data.loaders import make_training_loader
from tasks.data.splits import ImageData
from tasks.networks.build import build_classifier
from tasks.scoring.scorer import ScoringSpec
from tasks.task import Task
from tasks.training.finetuning import finetune


def make_task(subset="last_norms"):
    torch.manual_seed(0)
    images = TensorDataset(torch.randn(24, 3, 16, 16), torch.randint(4, (24,)))
    model = build_classifier("test_resnet", num_classes=4, channels=3, image_size=16).eval()
    data = ImageData(images, images, images, 4, 3, 16)
    return Task(data, model, resolve_subset(model, subset), scoring=ScoringSpec())


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.03)


@pytest.mark.parametrize("subset", ["last_norms", ["layer4.0.downsample.1.weight"]])
def test_finetuning_equals_plain_training_of_the_whole_network(subset):
    task, num_steps = make_task(subset), 2
    vectors_MD = torch.stack([flatten(task.model, task.subset) + shift for shift in (0.0, 0.1)])
    given = vectors_MD.clone()
    tuned_MD = finetune(vectors_MD, task, make_optimizer=adamw, batch_size=8, num_steps=num_steps, seed=5)
    assert torch.equal(vectors_MD, given), "the given vectors were changed"

    loader = make_training_loader(task.data.train, 8, derive_seed(5, "finetuned"))
    epochs = []
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)
        epochs += [*loader]
    assert num_steps < len(loader) < 2 * num_steps and not torch.equal(epochs[0][0], epochs[len(loader)][0]), (
        "the second epoch repeats the first"
    )
    for index, (start_D, tuned_D) in enumerate(zip(given, tuned_MD, strict=True)):
        batches = epochs[index * num_steps : (index + 1) * num_steps]
        state = dict(task.model.state_dict())
        parts = start_D.split(task.subset.sizes)
        parameters = {
            name: part.view(shape).clone()
            for name, part, shape in zip(task.subset.names, parts, task.subset.shapes, strict=True)
        }
        task.model.load_state_dict({**state, **parameters})
        chosen = [dict(task.model.named_parameters())[name] for name in task.subset.names]
        optimizer = adamw(chosen)
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(task.model(images), labels).backward()
            optimizer.step()
        torch.testing.assert_close(tuned_D, flatten(task.model, task.subset), rtol=1e-4, atol=1e-5)


def test_a_batch_size_above_the_number_of_training_images_uses_them_all():
    task = make_task()
    given_MD = flatten(task.model, task.subset)[None]
    assert not torch.equal(
        finetune(given_MD, task, make_optimizer=adamw, batch_size=100, num_steps=2, seed=5), given_MD
    )


def test_running_statistics_are_not_trained():
    task = make_task("all")
    given_MD = flatten(task.model, task.subset)[None]
    tuned_MD = finetune(given_MD, task, make_optimizer=adamw, batch_size=8, num_steps=2, seed=5)
    for name, given, tuned in zip(
        task.subset.names,
        given_MD.split(task.subset.sizes, dim=1),
        tuned_MD.split(task.subset.sizes, dim=1),
        strict=True,
    ):
        assert torch.equal(given, tuned) == ("running_" in name), name
