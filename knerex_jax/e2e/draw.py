"""Results drawn into pictures, and pictures beside each other."""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from knerex_jax.e2e.results import Box, HeatMap, Label

COLUMN_PIXELS = 512
"""Longest side of a drawn picture."""

_LEAST_PIXELS = 256  # shortest width of a column: room for its text
_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#00a5a5", "#f032e6", "#9a6324", "#808000")
_HEAT = (255, 64, 0)


def drawable(result: Any) -> bool:
    """Whether there is anything to draw, were it an empty list of boxes."""
    return (
        isinstance(result, str)
        or isinstance(result, list | tuple)
        and all(isinstance(r, Box | Label | HeatMap | str) for r in result)
    )


def draw_results(picture: Image.Image, result: Any, longest: int = COLUMN_PIXELS) -> Image.Image:
    """A copy of a picture, `longest` pixels long at most and enlarged where it is tiny, with its results.

    Args:
      picture: RGB.
      result: what the post-processing returned; boxes and points in pixels of `picture`.
      longest: of the longer side.
    """
    factor = min(longest / max(picture.size), max(1.0, _LEAST_PIXELS / picture.width))
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    canvas = picture.resize(size, Image.Resampling.BILINEAR if factor < 1 else Image.Resampling.NEAREST)
    listed = result if isinstance(result, list | tuple) else [result]
    for heat in (r for r in listed if isinstance(r, HeatMap)):
        canvas = _heated(canvas, heat)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=13)
    for box in (r for r in listed if isinstance(r, Box)):
        _draw_box(draw, box, factor, font)
    lines = [f"{r.name}  {r.score:.3g}" for r in listed if isinstance(r, Label)]
    lines += [line for r in listed if isinstance(r, str) for line in r.splitlines()]
    for k, line in enumerate(lines):
        _tag(draw, (4, 4 + 17 * k), line, font, "#202020")
    return canvas


def side_by_side(columns: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Pictures from left to right, each under its title."""
    head, gap = 22, 6
    width = sum(image.width for _, image in columns) + gap * (len(columns) - 1)
    sheet = Image.new("RGB", (width, head + max(image.height for _, image in columns)), "white")
    draw, font, left = ImageDraw.Draw(sheet), ImageFont.load_default(size=14), 0
    for title, image in columns:
        draw.text((left + 3, 3), title, fill="black", font=font)
        sheet.paste(image, (left, head))
        left += image.width + gap
    return sheet


def _draw_box(draw: ImageDraw.ImageDraw, box: Box, factor: float, font: Any) -> None:
    colour = _COLOURS[zlib.crc32(str(box.label).encode()) % len(_COLOURS)]
    left, top, right, bottom = (float(c) * factor for c in box.xyxy)
    draw.rectangle((min(left, right), min(top, bottom), max(left, right), max(top, bottom)), outline=colour, width=2)
    for x, y in box.points:
        x, y = float(x) * factor, float(y) * factor
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour, outline="white")
    text = f"{box.label} {box.score:.2f}".strip()
    _tag(draw, (max(left, 0), top - 17 if top >= 17 else max(top, 0)), text, font, colour)


def _tag(draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, font: Any, colour: str) -> None:
    left, top, right, bottom = draw.textbbox(place, text, font=font)
    draw.rectangle((left - 2, top - 2, right + 2, bottom + 2), fill=colour)
    draw.text(place, text, fill="white", font=font)


def _heated(canvas: Image.Image, heat: HeatMap) -> Image.Image:
    values = np.clip(np.nan_to_num(np.asarray(heat.values, np.float32)), 0, 1)
    share = Image.fromarray(np.round(values * 160).astype(np.uint8)).resize(canvas.size, Image.Resampling.BILINEAR)
    return Image.composite(Image.new("RGB", canvas.size, _HEAT), canvas, share)
