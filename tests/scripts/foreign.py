"""A stand-in for a user's own program: its training loop, files and network. It imports nothing from this project."""

from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn


def load_all_digits() -> tuple[Tensor, Tensor]:
    """Return all 1,797 digits as (N, 1, 16, 16), and their labels (N,)."""
    loaded = load_digits()
    return F.interpolate(torch.tensor(loaded.images, dtype=torch.float32)[:, None] / 8 - 1, size=16), torch.tensor(
        loaded.target
    )


def learn(model: nn.Module, steps: int = 80) -> nn.Module:
    """Train the whole network well above chance, so that its checkpoints differ in accuracy."""
    images, labels = load_all_digits()
    optimizer = torch.optim.Adam(model.train().parameters(), lr=3e-3)
    for step in range(steps):
        batch = slice(64 * (step % 28), 64 * (step % 28) + 64)
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def train(model: nn.Module, trained: str = "", steps: int = 6) -> list[dict[str, Tensor]]:
    """Return the state dict after each step; only parameters with `trained` in their name change, and no statistics."""
    images, labels = load_all_digits()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained in name)
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1.0)
    states = []
    for step in range(steps):
        loss = F.cross_entropy(model.eval()(images[64 * step : 64 * step + 64]), labels[64 * step : 64 * step + 64])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    return states


def make_network(name: str = "test_resnet", small_stem: bool = False, **options) -> nn.Module:
    """Return a network of timm for the digits, with the same weights at every call."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10, in_chans=1, **options)
    if small_stem:
        model.conv1, model.maxpool = nn.Conv2d(1, 64, 3, padding=1, bias=False), nn.Identity()
    return model


def write(states: list[dict[str, Tensor]], folder: Path, ending: str = ".pth", wrap=lambda state: state) -> Path:
    """Write epoch5, epoch6, … epoch10 to `folder`, so that natural order differs from alphabetic order."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, state in enumerate(states, 5):
        path = folder / f"epoch{number}{ending}"
        save_file(state, path) if ending == ".safetensors" else torch.save(wrap(state), path)
    return folder


OWN_MODULE = """
import torch
from torch import nn
from torch.utils.data import TensorDataset


class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        convolution = nn.Conv2d(3, width, 3, stride=2)
        pooling = nn.AdaptiveAvgPool2d(1)
        self.features = nn.Sequential(convolution, nn.GroupNorm(2, width), nn.ReLU(), pooling, nn.Flatten())
        self.head = nn.Linear(width, 3)

    def forward(self, images):
        return self.head(self.features(images))


def images(count, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=generator)
    return TensorDataset(torch.randn(count, 3, 9, 9, generator=generator) + labels[:, None, None, None], labels)


def task():
    return Net(), {"train": images(60, 0), "val": images(30, 1), "test": images(40, 2)}


def without_train():
    return Net(), {"val": images(30, 1), "test": images(40, 2)}


def only_a_model():
    return Net()


def broken():
    raise KeyError("no such thing")
"""
