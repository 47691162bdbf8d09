"""Seeds per purpose and index."""

import itertools

import torch

from core.runtime.seeding import derive_seed, generator_for


def test_seeds_are_distinct_per_purpose_seed_and_index():
    purposes = ["autoencoder", "autoencoder/init", "diffusion", "diffusion/init", "generate", "average", "noised_0.05"]
    keys = list(itertools.product([0, 1, 42, -1], purposes, range(50)))
    assert len({derive_seed(*key) for key in keys}) == len(keys)


def test_seeds_are_the_same_on_every_machine_and_day():
    assert derive_seed(0, "generate") == 8478401252821475507
    assert derive_seed(42, "generate", 17) == 9024186154814917462


def test_seeds_fit_into_every_random_generator():
    assert all(0 <= derive_seed(seed, "x") < 2**63 for seed in range(1000))


def test_a_generator_draws_alike_each_time_and_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    first, again, other = (torch.randn(5, generator=generator_for(0, "a", index)) for index in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
