"""Photos of the pinned packages and the crops made of them. A picture is a uint8 array [height, width, 3], RGB."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from knerex_jax.zoo.fetch import packaged_file

# The photos among scikit-image's sample data; drawings, masks and thumbnails are left out.
PHOTOS = (
    "astronaut.png",
    "coffee.png",
    "chelsea.png",
    "motorcycle_left.png",
    "rocket.jpg",
    "retina.jpg",
    "camera.png",
    "ihc.png",
    "hubble_deep_field.jpg",
    "coins.png",
    "page.png",
    "motorcycle_right.png",
    "grass.png",
    "gravel.png",
    "brick.png",
    "moon.png",
    "clock_motion.png",
    "cell.png",
    "text.png",
)


def load_photo(name: str) -> np.ndarray:
    """Reads one of scikit-image's photos; grey ones become RGB with three equal channels."""
    return np.asarray(Image.open(packaged_file("scikit-image", f"skimage/data/{name}")).convert("RGB"))


def load_labelled_photos() -> Iterator[tuple[np.ndarray, int]]:
    """Yields the 20 ImageNet photos of foolbox with their ImageNet-1k class, in the order of their number."""
    folder = packaged_file("foolbox", "foolbox/data")
    for path in sorted(folder.glob("imagenet_*.jpg")):
        yield np.asarray(Image.open(path).convert("RGB")), int(path.stem.split("_")[2])


def load_face_patches() -> tuple[np.ndarray, np.ndarray]:
    """Reads (faces, other patches) of Labeled Faces in the Wild as scikit-image ships them.

    Each float64 [100, 25, 25], grey, 0 to 1.
    """
    patches = np.load(packaged_file("scikit-image", "skimage/data/lfw_subset.npy"))
    return patches[:100], patches[100:]


def resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resamples bilinearly, averaging where it shrinks: uint8 [h, w, ...] -> [height, width, ...]."""
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def random_crop(
    picture: np.ndarray, size: int, generator: np.random.Generator, smallest: float = 0.4, largest: float = 1.0
) -> np.ndarray:
    """Cuts a random square, mirrors it half of the time and resizes it.

    Args:
      picture: at least a few pixels wide.
      size: side of the result in pixels.
      generator: draws side, place and mirroring.
      smallest: least side of the square, as a share of the picture's short side.
      largest: greatest side, likewise.

    Returns:
      uint8 [size, size, 3].
    """
    height, width, _ = picture.shape
    side = max(1, round(min(height, width) * generator.uniform(smallest, largest)))
    top = int(generator.integers(height - side + 1))
    left = int(generator.integers(width - side + 1))
    crop = picture[top : top + side, left : left + side]
    if generator.random() < 0.5:
        crop = crop[:, ::-1]
    return resize(np.ascontiguousarray(crop), size, size)


def letterbox(picture: np.ndarray, size: int, fill: int = 0) -> np.ndarray:
    """Fits the whole picture into a square, its proportions kept, the rest filled with one grey."""
    height, width, _ = picture.shape
    factor = size / max(height, width)
    inner = resize(picture, max(1, round(height * factor)), max(1, round(width * factor)))
    return paste(inner, size, fill)


def paste(picture: np.ndarray, size: int, fill: int) -> np.ndarray:
    """Puts a picture into the middle of a flat grey square that is at least as large."""
    height, width, _ = picture.shape
    square = np.full((size, size, 3), fill, np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = picture
    return square


def patch_to_rgb(patch: np.ndarray, size: int) -> np.ndarray:
    """Enlarges a grey patch, float [h, w] from 0 to 1, to a picture [size, size, 3]."""
    grey = resize(np.round(patch * 255).astype(np.uint8), size, size)
    return np.repeat(grey[:, :, None], 3, axis=2)
