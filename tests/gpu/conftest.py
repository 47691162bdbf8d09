"""Fixtures for the tests on a GPU. They are skipped without one, unless P_DIFF_REHEARSE=1 runs them on the CPU."""

import os

import pytest
import torch
from torch.utils.data import TensorDataset

from tasks.data.splits import gather_labeled_images

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch reads it once, at the first matrix product on a GPU


@pytest.fixture(scope="session")
def device():
    """Return the GPU, or the CPU in a rehearsal."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if os.environ.get("P_DIFF_REHEARSE") == "1":
        return torch.device("cpu")
    pytest.skip("needs a GPU; P_DIFF_REHEARSE=1 runs it on the CPU")


@pytest.fixture
def gpu(device):
    """Return the GPU, for tests that no CPU can run."""
    if device.type != "cuda":
        pytest.skip("needs a GPU")
    return device


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Use one thread, because with small tensors several threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def deterministic():
    """Restore torch's settings after a test with trainer.deterministic=true, which Lightning leaves switched on."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.benchmark = before[1]


@pytest.fixture
def data():
    """Return 40 random images of bytes, which serve as train, validation and test images."""
    torch.manual_seed(0)
    images = TensorDataset(torch.randint(256, (40, 3, 16, 16), dtype=torch.uint8), torch.randint(4, (40,)))
    return gather_labeled_images(
        images, images, images, num_classes=4, channels=3, image_size=16, colors=((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    )
