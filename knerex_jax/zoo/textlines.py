"""A5: a recogniser of text lines (PP-OCRv4 mobile: depthwise convolutions and attention), read at 48x320."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from knerex_jax.zoo.fetch import packaged_file
from knerex_jax.zoo.lettering import CALIBRATION_WORDS, EVALUATION_WORDS, line_input, random_line, random_text
from knerex_jax.zoo.model import Sample, Tensors, ZooModel
from knerex_jax.zoo.scores import edit_distance

_PACKAGE = "rapidocr-onnxruntime"
_OUTPUT = "softmax_11.tmp_0"
_WIDTH = 320
_LONGEST = 22  # characters; more would be squeezed beyond what the network has seen
_LINES = 300


def _locate() -> Path:
    return packaged_file(_PACKAGE, "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx")


def _lines(words: tuple[str, ...], seed: int) -> Iterator[tuple[Sample, str]]:
    """Worn lines of random text, without end."""
    generator = np.random.default_rng(seed)
    while True:
        text = random_text(words, _LONGEST, generator)
        yield {"x": line_input(random_line(text, generator), _WIDTH)}, text


def _labelled_samples() -> Iterator[tuple[Sample, str]]:
    for _, line in zip(range(_LINES), _lines(EVALUATION_WORDS, 51), strict=False):
        yield line


def load_charset(path: Path) -> tuple[str, ...]:
    """The characters of the classes, as the file's metadata lists them: "" for the blank, then all, then the space."""
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    return ("", *metadata["character"].split("\n"), " ")


def read_lines(probabilities: np.ndarray, charset: tuple[str, ...]) -> list[str]:
    """Greedy CTC decoding, [N, steps, classes] -> texts, without spaces at the ends (which are only margins)."""
    classes = np.argmax(probabilities, axis=2)
    new = np.insert(classes[:, 1:] != classes[:, :-1], 0, True, axis=1)
    return ["".join(charset[k] for k in row[first]).strip() for row, first in zip(classes, new, strict=True)]


def _score(outputs: Tensors, float_outputs: Tensors, labels: np.ndarray | None) -> dict[str, float]:
    charset = load_charset(_locate())
    texts, reference = (read_lines(tensors[_OUTPUT], charset) for tensors in (outputs, float_outputs))
    measures = {"agreement": float(np.mean([text == other for text, other in zip(texts, reference, strict=True)]))}
    if labels is not None:
        true = [str(label) for label in labels]
        errors = sum(edit_distance(text, label) for text, label in zip(texts, true, strict=True))
        measures["lines_exact"] = float(np.mean([text == label for text, label in zip(texts, true, strict=True)]))
        measures["character_accuracy"] = 1 - errors / sum(map(len, true))
    return measures


A5 = ZooModel(
    name="A5",
    title="text line recogniser PP-OCRv4 mobile, 48x320, CTC",
    licence="Apache-2.0",
    packages=(_PACKAGE,),
    locate=_locate,
    calibration_samples=lambda: (sample for sample, _ in _lines(CALIBRATION_WORDS, 50)),
    calibration_count=128,
    labelled_samples=_labelled_samples,
    note="300 rendered lines of words, codes and prices in random size, colours, blur and noise; labels are the texts; "
    "calibration has other words and another seed",
    score=_score,
    input_shapes={"x": (1, 3, 48, _WIDTH)},
)
