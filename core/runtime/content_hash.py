"""SHA-256 hashes of the content of artifacts, which tell a changed file from the file that was written."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCK_BYTES = 16 * 2**20  # memory that hashing needs at once, also for tensors larger than main memory


def hash_tensor(tensor: Tensor, on_rows: Callable[[Tensor], None] | None = None) -> str:
    """Return the hash of dtype, shape and bytes of a tensor on any device.

    The tensor is read in blocks of rows, so a memory-mapped tensor is never loaded as a whole.

    Args:
        tensor: A dense tensor of any shape.
        on_rows: Called with each block of rows in order, for another check in one pass over a large file.
    """
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    rows = tensor.detach() if tensor.dim() else tensor.detach()[None]
    row_bytes = rows.element_size() * rows.numel() // max(1, len(rows))
    for block in rows.split(max(1, BLOCK_BYTES // max(1, row_bytes))):
        if on_rows is not None:
            on_rows(block)
        digest.update(block.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_array(array: np.ndarray) -> str:
    """Return the hash of dtype, shape and bytes of an array."""
    digest = hashlib.sha256(f"{array.dtype.str} {list(array.shape)}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def hash_json(content: Any) -> str:
    """Return the hash of a value that fits into JSON; the order of the keys of a mapping does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
