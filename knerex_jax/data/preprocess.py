"""Image files -> input arrays: decode, resize, reorder and normalise, by preset or by stated numbers."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from knerex_jax.errors import ConfigError, ModelError
from knerex_jax.suggest import nearest

Resize = Literal["stretch", "letterbox", "crop"]
Order = Literal["RGB", "BGR"]

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_NOT_AN_IMAGE = (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError)


@dataclass(frozen=True)
class _Numbers:
    """What a preset stands for: value = (pixel * scale - mean) / std, channels in `order`."""

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    order: Order = "RGB"


PRESETS = {
    "kneron": _Numbers(scale=1 / 256, mean=(0.5,)),
    "tensorflow": _Numbers(scale=1 / 127.5, mean=(1.0,)),
    "yolo": _Numbers(scale=1 / 255),
    "pytorch": _Numbers(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "caffe": _Numbers(mean=(103.939, 116.779, 123.68), order="BGR"),
    "none": _Numbers(),
}
"""Named normalisations. Source: the published preprocessing modes."""


@dataclass(frozen=True)
class Preprocess:
    """How an image file becomes a model input: value = (pixel * scale - mean) / std, pixels 0 to 255.

    Attributes:
      preset: a key of `PRESETS`; gives scale, mean, std and order wherever these are None.
      scale: factor on the pixel.
      mean: subtracted after scaling; one number or one per channel, in `order`.
      std: divisor after that; one number or one per channel, in `order`.
      order: "RGB" or "BGR", the order of the channels that the model expects.
      size: (height, width) in pixels; None takes the model input's.
      resize: "stretch" ignores the aspect ratio; "letterbox" keeps it and pads; "crop" keeps it and cuts the centre.
      short_side: "crop" only: the image's short side in pixels before the cut (e.g. 256 for a cut of 224); None: the
        smallest that covers the cut.
      fill: "letterbox" only: pixel value of the padding, 0 to 255.
      corner: "letterbox" only: the image lies in the top left corner instead of the centre.

    Resizing is Pillow's bilinear filter on 8-bit pixels; photos are turned upright by their EXIF note; alpha is lost.

    Raises:
      ConfigError: unknown preset, order or resize mode, or impossible numbers.
    """

    preset: str = "none"
    scale: float | None = None
    mean: float | tuple[float, ...] | None = None
    std: float | tuple[float, ...] | None = None
    order: Order | None = None
    size: tuple[int, int] | None = None
    resize: Resize = "stretch"
    short_side: int | None = None
    fill: int = 0
    corner: bool = False

    def __post_init__(self) -> None:
        _one_of("preset", self.preset, PRESETS)
        _one_of("resize", self.resize, ("stretch", "letterbox", "crop"))
        if self.order is not None:
            _one_of("order", self.order, ("RGB", "BGR"))
        if not 0 <= self.fill <= 255:
            raise ConfigError(f"fill is {self.fill}", where="preprocess.fill", fix="use a pixel value, 0 to 255")
        if any(s == 0 for s in _as_tuple(self.std if self.std is not None else 1.0)):
            raise ConfigError("std is 0", where="preprocess.std", fix="use the standard deviation of the training data")

    def numbers(self) -> _Numbers:
        """The preset with this object's own numbers in place."""
        base = PRESETS[self.preset]
        return _Numbers(
            scale=base.scale if self.scale is None else self.scale,
            mean=base.mean if self.mean is None else _as_tuple(self.mean),
            std=base.std if self.std is None else _as_tuple(self.std),
            order=base.order if self.order is None else self.order,
        )

    def table(self, channels: int) -> np.ndarray:
        """Value of each pixel: float32 [channels, 256], computed in float64 and rounded once.

        Raises:
          ConfigError: mean or std have another number of entries than the input has channels.
        """
        numbers = self.numbers()
        mean = _per_channel("mean", numbers.mean, channels)
        std = _per_channel("std", numbers.std, channels)
        return ((np.arange(256) * numbers.scale - mean[:, None]) / std[:, None]).astype(np.float32)


def as_preprocess(value: "Preprocess | str") -> Preprocess:
    """A preset's name stands for the preset, stretched to the model's size."""
    return Preprocess(value) if isinstance(value, str) else value


def load_image(path: Path, preprocess: Preprocess, shape: tuple[int, ...], *, channel_last: bool) -> np.ndarray:
    """Decodes one file.

    Args:
      path: anything Pillow reads.
      preprocess: what to do with it.
      shape: shape of the result: (C, H, W), (H, W, C) or (H, W); C is 1 (grey) or 3.
      channel_last: C is the last axis.

    Returns:
      float32 array of that shape.

    Raises:
      ModelError: the file is no readable image.
      ConfigError: the size asked for is not the model's.
    """
    channels, height, width = image_extent(shape, channel_last=channel_last)
    if preprocess.size not in (None, (height, width)):
        raise ConfigError(
            f"images are resized to {preprocess.size}, but the model input is {(height, width)}",
            where="preprocess.size", fix="leave size out, or give the model's (height, width)",
        )  # fmt: skip
    picture = open_picture(path, "L" if channels == 1 else "RGB")
    pixels = np.asarray(_resize(picture, preprocess, height, width)).reshape(height, width, channels)
    if channels == 3 and preprocess.numbers().order == "BGR":
        pixels = pixels[:, :, ::-1]
    table = preprocess.table(channels)
    values = np.stack([table[c][pixels[:, :, c]] for c in range(channels)], axis=-1 if channel_last else 0)
    return values.reshape(shape)


def open_picture(path: Path, mode: str = "RGB") -> Image.Image:
    """Decodes one file, upright by its EXIF note.

    Raises:
      ModelError: the file is no readable image.
    """
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert(mode)
    except _NOT_AN_IMAGE as e:
        raise ModelError(f"unreadable image: {e}", where=str(path), fix="remove or replace the file") from e


def image_extent(shape: tuple[int, ...], *, channel_last: bool) -> tuple[int, int, int]:
    """(channels, height, width) of an input that takes images.

    Raises:
      ModelError: it cannot take images.
    """
    if len(shape) == 2:
        return 1, *shape
    if len(shape) == 3:
        channels, height, width = (shape[2], *shape[:2]) if channel_last else shape
        if channels in (1, 3):
            return channels, height, width
    raise ModelError(
        f"an input of shape {shape} takes no images", where="calibration data",
        fix="images need 1 or 3 channels; feed arrays instead (dict, .npz or a folder of .npy)",
    )  # fmt: skip


def _resize(picture: Image.Image, preprocess: Preprocess, height: int, width: int) -> Image.Image:
    if preprocess.resize == "stretch":
        return picture.resize((width, height), Image.Resampling.BILINEAR)
    if preprocess.resize == "letterbox":
        factor = min(width / picture.width, height / picture.height)
        inner = _scaled(picture, factor)
        canvas = Image.new(picture.mode, (width, height), (preprocess.fill,) * len(picture.getbands()))
        place = (0, 0) if preprocess.corner else ((width - inner.width) // 2, (height - inner.height) // 2)
        canvas.paste(inner, place)
        return canvas
    cover = max(width / picture.width, height / picture.height)
    factor = cover if preprocess.short_side is None else preprocess.short_side / min(picture.size)
    outer = _scaled(picture, factor)
    if outer.width < width or outer.height < height:
        raise ConfigError(
            f"an image of {outer.width} x {outer.height} is too small for a cut of {width} x {height}",
            where="preprocess.short_side", fix="raise short_side, or leave it out",
        )  # fmt: skip
    left, top = round((outer.width - width) / 2), round((outer.height - height) / 2)
    return outer.crop((left, top, left + width, top + height))


def _scaled(picture: Image.Image, factor: float) -> Image.Image:
    size = max(round(picture.width * factor), 1), max(round(picture.height * factor), 1)
    return picture.resize(size, Image.Resampling.BILINEAR)


def _as_tuple(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (float(value),)


def _per_channel(name: str, values: tuple[float, ...], channels: int) -> np.ndarray:
    if len(values) not in (1, channels):
        raise ConfigError(
            f"{name} has {len(values)} entries, the model input has {channels} channels",
            where=f"preprocess.{name}", fix=f"give one number or {channels}",
        )  # fmt: skip
    return np.broadcast_to(np.asarray(values, np.float64), (channels,))


def _one_of(field: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        fix = f"{nearest(value, known, '')} choose one of {', '.join(known)}".lstrip()
        raise ConfigError(f"unknown {field} {value!r}", where=f"preprocess.{field}", fix=fix)
