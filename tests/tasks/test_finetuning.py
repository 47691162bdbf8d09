"""The baseline that trains originals on."""

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from core.checkpoints.subset import flatten, resolve_subset
from core.runtime.seeding import derive_seed
from tasks.data.splits import ImageData
from tasks.finetuning import finetune
from tasks.models import build_classifier
from tasks.task import Task


def make_task(subset="last_norms"):
    torch.manual_seed(0)
    images = TensorDataset(torch.randn(24, 3, 16, 16), torch.randint(4, (24,)))
    model = build_classifier("test_resnet", 4, 3, 16).eval()
    return Task(ImageData(images, images, images, 4, 3, 16), model, resolve_subset(model, subset), torch.device("cpu"), {})


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.03)


def test_finetuning_equals_plain_training_of_the_whole_network():
    task, num_steps = make_task(), 4
    vectors_MD = torch.stack([flatten(task.model, task.subset) + shift for shift in (0.0, 0.1)])
    given = vectors_MD.clone()
    tuned_MD = finetune(vectors_MD, task, make_optimizer=adamw, batch_size=8, num_steps=num_steps, seed=5)
    assert torch.equal(vectors_MD, given), "the originals were altered"

    torch.manual_seed(derive_seed(5, "finetuned"))
    loader = DataLoader(task.data.train, 8, shuffle=True, drop_last=True)
    batches = [*loader, *loader][:num_steps]
    for start_D, tuned_D in zip(given, tuned_MD):
        state = dict(task.model.state_dict())
        parts = start_D.split(task.subset.sizes)
        parameters = {name: part.view(shape).clone() for name, part, shape in zip(task.subset.names, parts, task.subset.shapes)}
        task.model.load_state_dict({**state, **parameters})
        chosen = [dict(task.model.named_parameters())[name] for name in task.subset.names]
        optimizer = adamw(chosen)
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(task.model(images), labels).backward()
            optimizer.step()
        torch.testing.assert_close(tuned_D, flatten(task.model, task.subset), rtol=1e-4, atol=1e-5)


def test_running_statistics_in_the_subset_stay_as_they_are():
    task = make_task("all")
    start_D = flatten(task.model, task.subset)
    (tuned_D,) = finetune(start_D[None], task, make_optimizer=adamw, batch_size=8, num_steps=2, seed=5)
    buffers = {name for name, _ in task.model.named_buffers()}
    parts = zip(task.subset.names, start_D.split(task.subset.sizes), tuned_D.split(task.subset.sizes))
    assert {name in buffers: torch.equal(before, after) for name, before, after in parts} == {True: True, False: False}
