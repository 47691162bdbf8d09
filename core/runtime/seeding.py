"""One seed per purpose, so that changes in one stage do not change the random numbers of another."""

import hashlib

import torch


def derive_seed(seed: int, purpose: str, index: int = 0) -> int:
    """Return a 63-bit seed for the `index`-th draw of one purpose, for example ("generate", 17).

    The result is the same in every process, on every platform and for every batch size; `seed` may be 0.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def reseed(seed: int, device: torch.device) -> None:
    """Seed torch's global random generators of the CPU and of `device`.

    `torch.manual_seed` seeds all kinds of devices. Without a GPU this takes about 1 ms, which is longer
    than a training step of a small network.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def generator_for(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """Return a CPU random generator for the `index`-th draw of one purpose."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, index))
