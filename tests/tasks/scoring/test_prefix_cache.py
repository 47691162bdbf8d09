"""The cache of the frozen prefix: which chunks are kept, in which memory, and which are recomputed."""

import pytest
import torch
from torch.utils.data import TensorDataset

from tasks.data.loaders import choose_workers
from tasks.scoring import prefix_cache
from tasks.scoring.prefix_cache import Chunk, PrefixCache

CHUNK_BYTES = 4 * 6 * 4 + 4 * 8  # 4 images of 6 float numbers, 4 labels


def make_cache(cache_bytes, computed, device="cpu"):
    images = TensorDataset(torch.arange(60.0).view(10, 6), torch.arange(10))

    def compute(images_BF, labels_B):
        computed.append(labels_B.tolist())
        return Chunk((images_BF * 2,), labels_B)

    return PrefixCache(images, 4, compute, cache_bytes=cache_bytes, num_workers=0, device=torch.device(device))


@pytest.mark.parametrize(
    "chunks, again", [(0, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]), (1, [[4, 5, 6, 7], [8, 9]]), (2, [[8, 9]]), (3, [])]
)
def test_the_first_chunks_are_kept_if_memory_allows_and_the_others_are_recomputed(chunks, again):
    computed = []
    cache = make_cache(chunks * CHUNK_BYTES, computed)
    first = [*cache]
    assert f"is cached for {min(10, 4 * chunks)} of 10" in cache.summary
    assert ("scoring.cache_bytes" in cache.summary) == (chunks < 3)
    assert [number for labels in computed for number in labels] == list(range(10))
    computed.clear()
    for before, now in zip(first, cache, strict=True):
        assert torch.equal(before.crossing[0], now.crossing[0]) and torch.equal(before.targets, now.targets)
    assert computed == again and len(cache) == 3


def test_a_smaller_last_chunk_leaves_no_gap():
    computed = []
    cache = make_cache(1.5 * CHUNK_BYTES, computed)  # the second chunk does not fit, but the last of two images would
    assert [chunk.targets.tolist() for chunk in cache] == [chunk.targets.tolist() for chunk in cache]
    assert computed[3:] == [[4, 5, 6, 7], [8, 9]]


def test_a_view_is_kept_without_the_tensor_behind_it():
    whole = torch.zeros(8, 6)
    cache = PrefixCache(
        TensorDataset(torch.zeros(8, 6), torch.arange(8)),
        8,
        lambda images, labels: Chunk((whole[:, 0], 3), labels),
        cache_bytes=1e6,
        num_workers=0,
        device=torch.device("cpu"),
    )
    (chunk,) = cache
    assert chunk.crossing[1] == 3
    (kept,) = cache._kept
    assert kept.crossing[0].untyped_storage().nbytes() == 8 * 4 and torch.equal(kept.crossing[0], whole[:, 0])


def test_tensors_in_memory_are_read_without_workers_also_in_a_second_pass(monkeypatch):
    cache, seen = make_cache(CHUNK_BYTES, []), []
    original = prefix_cache.make_fixed_loader

    def remember(images, *_, **options):
        seen.append(images)
        return original(images, 4, **options)

    monkeypatch.setattr(prefix_cache, "make_fixed_loader", remember)
    list(cache), list(cache)
    assert [choose_workers(images, 4, num_workers="auto", device=torch.device("cuda")) for images in seen] == [0, 0]


def test_pinned_blocks_count_with_the_size_that_torch_rounds_up_to():
    chunk = Chunk((torch.zeros(5), None), torch.zeros(3))
    cache = make_cache("auto", [], "cuda")
    assert (cache._count_bytes("cuda", chunk), cache._count_bytes("cpu", chunk)) == (20 + 12, 32 + 16)


def test_a_gpu_is_filled_before_main_memory_and_left_partly_free(monkeypatch):
    monkeypatch.setattr(prefix_cache, "count_free_bytes", lambda device: 1000 if device.type == "cuda" else 5000)
    assert make_cache("auto", [], "cuda")._limit_bytes() == {"cuda": 400, "cpu": 2000}
    assert make_cache(800, [], "cuda")._limit_bytes() == {"cuda": 400, "cpu": 400}
    assert make_cache(300, [], "cuda")._limit_bytes() == {"cuda": 300, "cpu": 0}
    assert make_cache("auto", [])._limit_bytes() == {"cpu": 2000}
    assert make_cache(9000, [])._limit_bytes() == {"cpu": 9000}, "the user's number was not used"
