"""Images without a class: scrambled phases keep the amplitudes, and a splice shows two images of two classes."""

import numpy as np
import pytest
import torch

from core.runtime.seeding import generator_for
from tasks.data.out_of_distribution import scramble_phases, splice_halves


@pytest.mark.parametrize("shape", [(4, 1, 16, 16), (4, 3, 9, 9), (4, 1, 8, 11)])
def test_scrambled_phases_keep_the_amplitudes_and_the_mean_of_each_image(shape):
    images_NCSS = torch.rand(shape, generator=generator_for(0, "images"))
    scrambled_NCSS = scramble_phases(images_NCSS, generator_for(0, "phases"))
    amplitudes, scrambled = (np.abs(np.fft.fft2(images.double().numpy())) for images in (images_NCSS, scrambled_NCSS))
    np.testing.assert_allclose(scrambled, amplitudes, atol=1e-4)
    torch.testing.assert_close(scrambled_NCSS.mean((2, 3)), images_NCSS.mean((2, 3)))
    correlation = np.corrcoef(scrambled_NCSS.flatten(), images_NCSS.flatten())[0, 1]
    assert scrambled_NCSS.dtype == torch.float32 and abs(correlation) < 0.3, "the shapes are still there"


def test_the_phases_follow_the_generator():
    images_NCSS = torch.rand(2, 1, 8, 8, generator=generator_for(0, "images"))
    first, same, other = (scramble_phases(images_NCSS, generator_for(seed, "phases")) for seed in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_a_splice_shows_halves_of_two_images_of_two_classes():
    labels_N = torch.arange(40) % 4
    images_NCSS = torch.arange(40.0)[:, None, None, None].expand(-1, 2, 6, 6)  # each image has one value
    spliced_KCSS = splice_halves(images_NCSS, labels_N, 30, generator_for(0, "splices"))
    assert spliced_KCSS.shape == (30, 2, 6, 6)
    num_left = 0
    for spliced_CSS in spliced_KCSS:
        first, second = spliced_CSS[0, 0, 0], spliced_CSS[0, -1, -1]
        is_left = bool(spliced_CSS[0, -1, 0] == first)
        num_left += is_left
        parts = spliced_CSS.split(3, dim=2 if is_left else 1)
        assert (parts[0] == first).all() and (parts[1] == second).all()
        assert labels_N[int(first)] != labels_N[int(second)]
    assert len({float(image[0, 0, 0]) for image in spliced_KCSS}) == 30, "an image gives its first half twice"
    assert 8 < num_left < 22 and (images_NCSS == torch.arange(40.0)[:, None, None, None]).all()
