"""One seed per purpose, so that changing one stage never shifts the randomness of another."""

import hashlib

import torch


def derive_seed(seed: int, purpose: str, index: int = 0) -> int:
    """Return a 63-bit seed for the `index`-th draw of one purpose, for example ("generate", 17).

    Independent of process, platform and batch size; `seed` may be 0.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def reseed(seed: int, device: torch.device) -> None:
    """Seed the global random generators that `device` draws from.

    `torch.manual_seed` would seed all kinds of devices, which took a millisecond where no GPU is in use: longer than
    many a step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def generator_for(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """Return a CPU random generator that only this purpose draws from."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, index))
