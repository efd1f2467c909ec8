"""Crops of the unlabelled photos with random colours: few photos that teach much (see README.md)."""

import numpy as np

from knerex_jax.zoo.imagenet import normalize
from knerex_jax.zoo.images import PHOTOS, load_photo, random_crop


def coloured_crops(count: int, seed: int = 7) -> np.ndarray:
    """Random squares of 0.15 to 1 of the short side, photo after photo: float32 [count, 3, 224, 224].

    Four of five have the contrast of every channel and their brightness changed, three of ten their channels in another
    order, one of five is upside down and one of five on its side.
    """
    generator = np.random.default_rng(seed)
    photos = [load_photo(name) for name in PHOTOS]
    crops = (random_crop(photos[k % len(photos)], 224, generator, 0.15, 1.0) for k in range(count))
    return np.stack([normalize(_changed(crop, generator)) for crop in crops])


def _changed(crop: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    values = crop.astype(np.float32)
    if generator.random() < 0.8:
        contrast = generator.uniform(0.6, 1.4, (1, 1, 3)) * generator.uniform(0.7, 1.3)
        values = values * contrast.astype(np.float32) + np.float32(generator.uniform(-25, 25))
    if generator.random() < 0.3:
        values = values[..., generator.permutation(3)]
    if generator.random() < 0.2:
        values = values[::-1]
    if generator.random() < 0.2:
        values = values.transpose(1, 0, 2)
    return np.clip(values, 0, 255).astype(np.uint8)
