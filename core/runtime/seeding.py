"""One seed per purpose, so that changing one stage never shifts the randomness of another."""

import hashlib

import torch


def derive_seed(seed: int, purpose: str, index: int = 0) -> int:
    """A 63-bit seed for the `index`-th draw of one purpose, for example ("generate", 17).

    Independent of process, platform and batch size; `seed` may be 0.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def reseed(seed: int, device: torch.device) -> None:
    """Seed the global random generators that `device` draws from.

    `torch.manual_seed` at every step would seed those of all kinds of devices, and took a millisecond to do so where no
    GPU is in use: more than many a step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def generator_for(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A CPU random generator that only this purpose draws from."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, index))
