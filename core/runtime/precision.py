"""The precision of float32 products on GPUs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def set_float32_precision(tf32: bool = False) -> Iterator[None]:
    """Multiply in full float32, or in TensorFloat-32 if `tf32`, inside the block or the decorated function.

    By default torch mixes both: matrix products use float32, but cuDNN convolutions use TensorFloat-32, which keeps 10
    mantissa bits of each factor. That is enough for training, but generated weights and scores should not depend on
    the GPU model.
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
