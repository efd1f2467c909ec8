"""A6_cls: a classifier of text lines, upright or upside down (MobileNetV3-small 0.35), 48x192."""

import itertools
from collections.abc import Iterator

import numpy as np

from knerex_jax.zoo.fetch import packaged_file
from knerex_jax.zoo.lettering import CALIBRATION_WORDS, EVALUATION_WORDS, line_input, random_line, random_phrase
from knerex_jax.zoo.model import Sample, Tensors, ZooModel
from knerex_jax.zoo.scores import agreement, top_k

_PACKAGE = "rapidocr-onnxruntime"
_OUTPUT = "save_infer_model/scale_0.tmp_1"
_WIDTH = 192
_LONGEST = 14
_LINES = 400


def _lines(words: tuple[str, ...], seed: int) -> Iterator[tuple[Sample, int]]:
    """Worn lines of random words, in turn upright (0) and turned by half a turn (1), without end."""
    generator = np.random.default_rng(seed)
    for turned in itertools.cycle((0, 1)):
        picture = random_line(random_phrase(words, _LONGEST, generator), generator)
        yield {"x": line_input(picture[::-1, ::-1] if turned else picture, _WIDTH)}, turned


def _score(outputs: Tensors, float_outputs: Tensors, labels: np.ndarray | None) -> dict[str, float]:
    measures = {"agreement": agreement(outputs[_OUTPUT], float_outputs[_OUTPUT])}
    if labels is not None:
        measures["top1"] = top_k(outputs[_OUTPUT], labels)
    return measures


A6_CLS = ZooModel(
    name="A6_cls",
    title="text line orientation, MobileNetV3-small 0.35, 48x192",
    licence="Apache-2.0",
    packages=(_PACKAGE,),
    locate=lambda: packaged_file(_PACKAGE, "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    calibration_samples=lambda: (sample for sample, _ in _lines(CALIBRATION_WORDS, 64)),
    calibration_count=128,
    labelled_samples=lambda: itertools.islice(_lines(EVALUATION_WORDS, 65), _LINES),
    note="400 rendered lines of words, in turn upright (label 0) and upside down (label 1); calibration has other "
    "words and another seed",
    score=_score,
    input_shapes={"x": (1, 3, 48, _WIDTH)},
)
