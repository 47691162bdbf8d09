"""Loaders: augmentations that depend on seed, epoch and image, and workers that depend on the machine."""

import random
import signal
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from core.runtime.errors import UserError
from tasks.data import loaders
from tasks.data.loaders import EpochOrder, choose_workers, hold_back_interrupts, make_fixed_loader, make_training_loader

GPU = torch.device("cuda")  # only its type is read, so these tests need no GPU


class Augmented(Dataset):
    """40 images of 3×4×4 that draw from the random states of torch, Python and NumPy."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        noise = torch.rand(3, 4, 4) + random.random() + float(np.random.rand())
        return index + noise, index


def read_epochs(num_workers, first=0, seed=0):
    """Return the images of each epoch, joined, from `first` to the second epoch."""
    epochs = []
    loader = make_training_loader(Augmented(), 8, seed, num_workers=num_workers, epoch=first)
    for epoch in range(first, 2):
        loader.sampler.set_epoch(epoch)
        epochs.append(torch.cat([images for images, _ in loader]))
    return epochs


def test_augmentations_follow_seed_epoch_and_image_with_any_number_of_workers():
    epochs = read_epochs(0)
    assert not torch.equal(*(epoch.flatten(1).sort(0).values for epoch in epochs)), "the second epoch repeats the first"
    random.seed(5), np.random.seed(5), torch.manual_seed(5)  # earlier draws must not change the images
    for num_workers in (0, 2):
        assert all(torch.equal(*pair) for pair in zip(epochs, read_epochs(num_workers), strict=True))
    assert torch.equal(epochs[1], read_epochs(2, first=1)[0]), "a resumed training begins with the first epoch's images"
    assert not torch.equal(epochs[0], read_epochs(0, seed=1)[0])


def test_reading_images_does_not_change_the_random_states():
    def draws():
        return torch.rand(1).item(), random.random(), np.random.rand()

    def seeded():
        torch.manual_seed(1), random.seed(1), np.random.seed(1)

    seeded()
    expected = draws()
    seeded()
    list(make_training_loader(Augmented(), 8, seed=0))
    assert draws() == expected


def test_processes_divide_the_images_and_the_augmentation_of_an_image_does_not_depend_on_its_process():
    single, *shared = (
        [*EpochOrder(Augmented(), processes=processes, rank=rank, seed=3)]
        for processes, rank in ((1, 0), (2, 0), (2, 1))
    )
    assert not {draw.image for draw in shared[0]} & {draw.image for draw in shared[1]}
    assert set(single) == {draw for part in shared for draw in part}
    assert len({draw.seed for draw in single}) == 40, "two images share an augmentation seed"


@pytest.mark.parametrize("cores, processes, workers", [(4, 1, 4), (64, 1, 16), (64, 8, 8), (2, 4, 1)])
def test_a_gpu_gets_workers_by_cores_and_processes(monkeypatch, cores, processes, workers):
    monkeypatch.setattr(loaders, "count_available_cores", lambda: cores)
    monkeypatch.setattr(loaders.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(loaders.dist, "get_world_size", lambda: processes)
    assert choose_workers(Augmented(), 8, num_workers="auto", device=GPU) == workers


def test_a_cpu_and_tensors_in_memory_get_no_workers_unless_asked_for():
    tensors = TensorDataset(torch.zeros(4, 3, 4, 4), torch.zeros(4))
    assert (
        choose_workers(Augmented(), 8, num_workers="auto", device=torch.device("cpu"))
        == choose_workers(tensors, 8, num_workers="auto", device=GPU)
        == 0
    )
    assert choose_workers(Augmented(), 8, num_workers=3, device=torch.device("cpu")) == 3


def test_little_shared_memory_means_fewer_workers_or_an_error(monkeypatch, caplog):
    per_worker = 3 * 8 * 3 * 4 * 4 * 4  # three batches of 8 float images
    monkeypatch.setattr(loaders.shutil, "disk_usage", lambda path: namedtuple("usage", "free")(2 * per_worker))
    monkeypatch.setattr(loaders, "count_available_cores", lambda: 4)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with caplog.at_level("INFO"):
        assert choose_workers(Augmented(), 8, num_workers="auto", device=GPU) == 2
    assert "Using 2 workers" in caplog.text and "--shm-size" in caplog.text
    assert choose_workers(Augmented(), 8, num_workers=2, device=GPU) == 2
    with pytest.raises(UserError, match=r"task\.data\.num_workers=3 .*/dev/shm .*task\.data\.num_workers=auto"):
        choose_workers(Augmented(), 8, num_workers=3, device=GPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_for_a_gpu_are_pinned_and_training_workers_stay(monkeypatch):
    monkeypatch.setattr(loaders, "count_available_cores", lambda: 2)
    on_gpu = {"num_workers": "auto", "device": GPU}
    train, fixed = make_training_loader(Augmented(), 8, 0, **on_gpu), make_fixed_loader(Augmented(), 8, **on_gpu)
    kept = make_fixed_loader(Augmented(), 8, keep_workers=True, **on_gpu)
    assert kept.persistent_workers and not fixed.persistent_workers
    assert (train.num_workers, train.persistent_workers, train.pin_memory) == (2, True, True)
    assert (fixed.num_workers, fixed.pin_memory) == (2, True)
    assert not make_training_loader(Augmented(), 8, 0).pin_memory


@pytest.fixture
def default_interrupts():
    """Interrupts raise KeyboardInterrupt, also where a shell started the tests in the background and ignores them."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


def test_ctrl_c_while_workers_start_is_delayed_until_they_have_started(default_interrupts):
    reached = []
    with pytest.raises(KeyboardInterrupt), hold_back_interrupts():
        signal.raise_signal(signal.SIGINT)
        reached.append("the end")
    assert reached == ["the end"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


class ReportsSignalMask(Augmented):
    """Items whose label tells whether the process that reads them ignores Ctrl-C."""

    def __getitem__(self, index):
        return torch.zeros(1), int(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))


def test_workers_leave_ctrl_c_to_the_process_that_started_them():
    for make in (make_fixed_loader, lambda *args, **options: make_training_loader(*args, seed=0, **options)):
        ignoring = [label for _, batch in make(ReportsSignalMask(), 8, num_workers=1) for label in batch.tolist()]
        assert all(ignoring) and len(ignoring) == 40
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
