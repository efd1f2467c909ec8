"""A7: notes of a recording (basic-pitch: a constant-Q transform as convolutions, then a small CNN), two seconds."""

import itertools
from collections.abc import Iterator

import numpy as np

from knerex_jax.zoo.fetch import packaged_file
from knerex_jax.zoo.model import Sample, Tensors, ZooModel
from knerex_jax.zoo.scores import agreement, top_k
from knerex_jax.zoo.sounds import load_speech

_PACKAGE = "basic-pitch"
_INPUT, _NOTES = "serving_default_input_2:0", "StatefulPartitionedCall:1"
_RATE, _LENGTH = 22050, 43844  # samples per second and per window
_LOWEST_HZ = 27.5  # of the 88 keys of a piano, key 0
_KEYS = 88
_HARMONICS = 8
_NOTE_COUNT = 500
_LOUDEST = 0.9


def synthesize_note(key: int, generator: np.random.Generator) -> np.ndarray:
    """A plucked note, float64 [43844]: harmonics that fall off and decay, of random timbre, length, start and loudness.

    Args:
      key: 0 to 87, semitones above 27.5 Hz.
      generator: draws everything else.
    """
    time = np.arange(_LENGTH) / _RATE - generator.uniform(0.0, 0.3)
    held = np.clip(time / generator.uniform(0.005, 0.03), 0, 1) * (time < generator.uniform(1.0, 1.6))
    pitch = _LOWEST_HZ * 2 ** (key / 12)
    slope, decay = generator.uniform(1.0, 2.5), generator.uniform(0.3, 2.5)
    tone = np.zeros(_LENGTH)
    for harmonic in range(1, _HARMONICS + 1):
        if pitch * harmonic < 0.45 * _RATE:
            strength = generator.uniform(0.5, 1.0) / harmonic**slope
            fading = np.exp(-decay * harmonic**0.5 * np.maximum(time, 0))
            tone += strength * fading * np.sin(2 * np.pi * pitch * harmonic * time + generator.uniform(0, 2 * np.pi))
    tone *= held
    return tone / np.abs(tone).max() * generator.uniform(0.1, 0.7)


def _window(sound: np.ndarray, generator: np.random.Generator) -> Sample:
    """Adds a little noise, keeps the sum within -1 to 1: float32 [43844, 1]."""
    noisy = sound + generator.normal(0, generator.uniform(0.0, 0.005), _LENGTH)
    quiet = noisy * min(1.0, _LOUDEST / float(np.abs(noisy).max()))
    return {_INPUT: quiet.astype(np.float32)[:, None]}


def _calibration_samples() -> Iterator[Sample]:
    """In turn speech, a chord of one to four notes, and both together; without end."""
    generator = np.random.default_rng(70)
    for speech in itertools.cycle(load_speech(_RATE)):
        for with_speech, with_chord in ((True, False), (False, True), (True, True)):
            sound = np.zeros(_LENGTH)
            if with_speech:
                start = int(generator.integers(max(1, len(speech) - _LENGTH + 1)))
                piece = speech[start : start + _LENGTH]
                sound[: len(piece)] += piece * generator.uniform(0.3, 1.0)
            for _ in range(int(generator.integers(1, 5)) if with_chord else 0):
                sound += synthesize_note(int(generator.integers(_KEYS)), generator)
            yield _window(sound, generator)


def _labelled_samples() -> Iterator[tuple[Sample, int]]:
    generator = np.random.default_rng(71)
    for _ in range(_NOTE_COUNT):
        key = int(generator.integers(_KEYS))
        yield _window(synthesize_note(key, generator), generator), key


def _score(outputs: Tensors, float_outputs: Tensors, labels: np.ndarray | None) -> dict[str, float]:
    heard, reference = (tensors[_NOTES].mean(axis=1) for tensors in (outputs, float_outputs))
    measures = {
        "agreement": agreement(heard, reference),
        "activation_agreement": float(np.mean((outputs[_NOTES] > 0.5) == (float_outputs[_NOTES] > 0.5))),
    }
    if labels is not None:
        measures["notes_right"] = top_k(heard, labels)
    return measures


A7 = ZooModel(
    name="A7",
    title="basic-pitch, audio to notes, two seconds at 22050 Hz",
    licence="Apache-2.0",
    packages=(_PACKAGE, "pytest-audioeval", "useful-moonshine-onnx"),
    locate=lambda: packaged_file(_PACKAGE, "basic_pitch/saved_models/icassp_2022/nmp.onnx"),
    calibration_samples=_calibration_samples,
    calibration_count=128,
    labelled_samples=_labelled_samples,
    note="500 synthesized single notes; labels are the keys of a piano, 0 to 87; calibration has speech and chords of "
    "another seed",
    score=_score,
    input_shapes={_INPUT: (1, _LENGTH, 1)},
)
