"""A6_det: a detector of text in scenes (PP-OCRv4 mobile, DBNet on LCNetV3), read at 320x320."""

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from knerex_jax.zoo.fetch import packaged_file
from knerex_jax.zoo.images import PHOTOS, load_labelled_photos, load_photo, random_crop
from knerex_jax.zoo.lettering import (
    CALIBRATION_WORDS,
    EVALUATION_WORDS,
    contrasting_colour,
    draw_text,
    random_ground,
    random_text,
    text_size,
    wear,
)
from knerex_jax.zoo.model import Sample, Tensors, ZooModel
from knerex_jax.zoo.scores import f1_score, overlap

_PACKAGE = "rapidocr-onnxruntime"
_OUTPUT = "sigmoid_0.tmp_0"
_SIDE = 320
_LONGEST = 18
_SIZES = (14, 33)  # of the font in pixels, the second excluded
_MARGIN = 10  # around every line, in pixels
_OUTLINE = 1
_LOOSE = 2  # pixels between the ink and the box around it, as people draw such boxes
_THRESHOLD = 0.3
_SMALLEST = 10  # pixels of the probability map; less is no text
_WORDLESS = tuple(name for name in PHOTOS if name not in ("page.png", "text.png"))


def _write_lines(
    ground: np.ndarray, words: tuple[str, ...], generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Writes two to six lines of text below each other: the picture, and bool [320, 320], true inside their boxes."""
    picture, covered = ground, np.zeros((_SIDE, _SIDE), bool)
    bottom = int(generator.integers(_MARGIN, 60))
    for _ in range(int(generator.integers(2, 7))):
        text, size = random_text(words, _LONGEST, generator), int(generator.integers(*_SIZES))
        height, width = text_size(text, size, _OUTLINE)
        if bottom + height + _MARGIN > _SIDE or width + 2 * _MARGIN > _SIDE:
            continue
        left = int(generator.integers(_MARGIN, _SIDE - width - _MARGIN + 1))
        colour = contrasting_colour(picture[bottom : bottom + height, left : left + width], generator)
        picture, (left, top, right, bottom) = draw_text(picture, text, size, bottom, left, colour, _OUTLINE)
        covered[top - _LOOSE : bottom + _LOOSE, left - _LOOSE : right + _LOOSE] = True
        bottom += int(generator.integers(_MARGIN, 40))
    return wear(picture, generator), covered


def _normalize(picture: np.ndarray) -> np.ndarray:
    """uint8 RGB [320, 320, 3] -> float32 [3, 320, 320], BGR, -1 to 1."""
    scaled = picture[:, :, ::-1].astype(np.float32) / np.float32(127.5) - np.float32(1)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def _scenes(
    photos: list[np.ndarray], words: tuple[str, ...], generator: np.random.Generator
) -> Iterator[tuple[Sample, np.ndarray]]:
    """Text on a random square of every photo, and after every two of them text on a plain page."""
    for number, photo in enumerate(photos):
        pages = [random_crop(photo, _SIDE, generator)]
        pages += [random_ground(_SIDE, _SIDE, generator)] if number % 2 else []
        for page in pages:
            picture, covered = _write_lines(page, words, generator)
            yield {"x": _normalize(picture)}, covered


def _calibration_samples() -> Iterator[Sample]:
    """Text on the unlabelled photos that hold none themselves, and on plain pages, without end."""
    generator = np.random.default_rng(60)
    photos = [load_photo(name) for name in _WORDLESS]
    while True:
        yield from (sample for sample, _ in _scenes(photos, CALIBRATION_WORDS, generator))


def _labelled_samples() -> Iterator[tuple[Sample, np.ndarray]]:
    """Two scenes on each of the 20 ImageNet photos, and 20 plain pages."""
    generator = np.random.default_rng(61)
    photos = [photo for photo, _ in load_labelled_photos()]
    return _scenes(photos * 2, EVALUATION_WORDS, generator)


def text_pixels(probabilities: np.ndarray, threshold: float = _THRESHOLD) -> np.ndarray:
    """Which pixels lie in the box of a text.

    The network marks the core of a line only; as its authors prescribe, the box of every connected core grows on all
    sides by 1.5 times its area over its circumference.

    Args:
      probabilities: [h, w], 0 to 1.
      threshold: least probability of a core.

    Returns:
      bool [h, w].
    """
    labelled = np.zeros(probabilities.shape, np.int32)
    ndimage.label(probabilities > threshold, output=labelled)
    covered = np.zeros(probabilities.shape, bool)
    for number, (rows, columns) in enumerate(ndimage.find_objects(labelled), 1):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if np.count_nonzero(labelled[rows, columns] == number) < _SMALLEST:
            continue
        growth = round(1.5 * height * width / (2 * (height + width)))
        top, left = max(rows.start - growth, 0), max(columns.start - growth, 0)
        covered[top : rows.stop + growth, left : columns.stop + growth] = True
    return covered


def _score(outputs: Tensors, float_outputs: Tensors, labels: np.ndarray | None) -> dict[str, float]:
    maps, reference = (tensors[_OUTPUT][:, 0] for tensors in (outputs, float_outputs))
    cores, float_cores = maps > _THRESHOLD, reference > _THRESHOLD
    measures = {"pixel_agreement": float(np.mean(cores == float_cores)), "core_iou": overlap(cores, float_cores)}
    if labels is not None:
        measures["f1"] = f1_score(np.stack([text_pixels(m) for m in maps]), labels)
    return measures


A6_DET = ZooModel(
    name="A6_det",
    title="text detector PP-OCRv4 mobile (DBNet on LCNetV3), 320x320",
    licence="Apache-2.0",
    packages=(_PACKAGE, "foolbox", "scikit-image"),
    locate=lambda: packaged_file(_PACKAGE, "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"),
    calibration_samples=_calibration_samples,
    calibration_count=128,
    labelled_samples=_labelled_samples,
    note="60 scenes with rendered lines of text: 40 on random squares of ImageNet photos, 20 on plain pages; labels "
    "are true inside the boxes of the lines, bool [N, 320, 320]; calibration has other photos, words and another seed",
    score=_score,
    input_shapes={"x": (1, 3, _SIDE, _SIDE)},
)
