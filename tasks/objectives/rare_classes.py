"""The part of images in a mean over classes, some of which are on few images.

M models · N images · C classes
"""

import numpy as np

FEWEST = 6  # A sign test on fewer images cannot show a difference: 2 / 2⁵ is above 5%.


def place_rare_classes(values_MC: np.ndarray, carries_NC: np.ndarray) -> np.ndarray:
    """Return the change of each model's value due to rare classes (M, N) when an image is drawn once more.

    A ratio such as an IoU or an average precision does not depend on how many images carry its class. To first order, a
    class on a single image therefore does not change at all, as if its value were known exactly, and a class on a few
    images changes too little. A class on fewer than `FEWEST` images is taken to be worth its value only as often as its
    images are drawn, so a difference that rests on it rests on these images:

        value · (Σ_{n carries} v_n / n_C) / (Σ v_n / N)  changes by  value · (carries_n / n_C − 1 / N).

    Args:
        values_MC: The part of each class in the mean of each model.
        carries_NC: Whether an image has targets of a class.
    """
    images_C = carries_NC.sum(axis=0)
    is_rare_C = (images_C > 0) & (images_C < FEWEST)
    share_NC = carries_NC / np.maximum(images_C, 1) - 1 / len(carries_NC)
    return (values_MC * is_rare_C) @ share_NC.T
