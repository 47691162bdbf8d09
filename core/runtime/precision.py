"""How exactly GPUs multiply float32 numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def float32_products(tf32: bool = False) -> Iterator[None]:
    """Multiply float32 numbers as such, or in TensorFloat-32, inside the block or the function it decorates.

    Left alone, torch does neither: matrix products are exact, but cuDNN's convolutions are in TensorFloat-32, which
    keeps 10 bits of each factor. That serves training; generated and scored numbers should not depend on the card.
    """
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = tf32
    try:
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed
