"""Images that belong to no class, made from the images of a dataset. A careful network is less sure of them.

K new images · N images · C color channels · S image size in pixels.
"""

import numpy as np
import torch
from torch import Tensor


def scramble_phases(images_NCSS: Tensor, generator: torch.Generator) -> Tensor:
    """Return images (N, C, S, S) with the amplitude spectra of the given ones and the phases of white noise.

    Brightness, contrast and the strength of each frequency stay, and every shape is lost, because shapes lie in the
    phases (Oppenheim & Lim 1981, The importance of phase in signals). Values are not clipped, which would change the
    spectra.
    """
    noise_N1SS = torch.randn(images_NCSS[:, :1].shape, generator=generator)
    # NumPy transforms in float64 with the same result at every call, which the digest of the images relies on.
    spectra, noise_spectra = (np.fft.rfft2(images.double().numpy()) for images in (images_NCSS, noise_N1SS))
    scrambled = np.abs(spectra) * np.exp(1j * np.angle(noise_spectra))
    scrambled[..., 0, 0] = spectra[..., 0, 0]  # the mean of an image keeps its sign
    return torch.from_numpy(np.fft.irfft2(scrambled, s=images_NCSS.shape[-2:])).float()


def splice_halves(images_NCSS: Tensor, labels_N: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return images (K, C, S, S) that show the left or upper half of one image and the other half of another class.

    Args:
        images_NCSS: The images.
        labels_N: Their classes, of which there are at least two.
        count: K, at most N, because each image gives its left or upper half once.
        generator: The source of all random choices.
    """
    first_K = torch.randperm(len(images_NCSS), generator=generator)[:count]
    of_another_class_KN = labels_N[first_K][:, None] != labels_N
    second_K = torch.multinomial(of_another_class_KN.double(), 1, generator=generator)[:, 0]
    is_left_K = torch.rand(len(first_K), generator=generator) < 0.5
    spliced_KCSS, half = images_NCSS[first_K], images_NCSS.shape[-1] // 2
    spliced_KCSS[is_left_K, :, :, half:] = images_NCSS[second_K[is_left_K], :, :, half:]
    spliced_KCSS[~is_left_K, :, half:] = images_NCSS[second_K[~is_left_K], :, half:]
    return spliced_KCSS
