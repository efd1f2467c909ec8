"""Recordings of speech in the pinned packages. A sound is a float32 array [samples], one channel, -1 to 1."""

import math
import struct
from pathlib import Path

import numpy as np
from scipy import signal

from knerex_jax.errors import ArtifactError
from knerex_jax.zoo.fetch import packaged_file

_INTEGER, _FLOAT = 1, 3  # codes of sample formats in a WAV file


def read_wav(path: Path) -> tuple[np.ndarray, int]:
    """Reads a WAV file of one channel, 16-bit integer or 32-bit float.

    Python's `wave` refuses the float form, and scipy's reader warns about every extra chunk.

    Returns:
      The sound, and its samples per second.

    Raises:
      ArtifactError: the file is something else, or damaged.
    """
    content = path.read_bytes()
    chunks, at = {}, 12
    while at + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, at)
        chunks.setdefault(name, content[at + 8 : at + 8 + size])
        at += 8 + size + size % 2
    try:
        kind, channels, rate, *_, bits = struct.unpack_from("<HHIIHH", chunks[b"fmt "])
        scale = {(_INTEGER, 1, 16): 2.0**-15, (_FLOAT, 1, 32): 1.0}[kind, channels, bits]
        samples = np.frombuffer(chunks[b"data"], "<i2" if kind == _INTEGER else "<f4")
    except (KeyError, ValueError, struct.error) as error:
        fix = "use a WAV file of one channel, 16-bit integer or 32-bit float"
        raise ArtifactError(f"not a readable sound: {error!r}", where=str(path), fix=fix) from error
    return samples.astype(np.float32) * np.float32(scale), rate


def load_speech(rate: int) -> list[np.ndarray]:
    """Reads the recordings of pytest-audioeval, by language and name, then the long one of moonshine.

    Args:
      rate: samples per second of the result.
    """
    folder = packaged_file("pytest-audioeval", "pytest_audioeval/samples/audio")
    paths = sorted(folder.glob("*/*.wav"))
    paths.append(packaged_file("useful-moonshine-onnx", "moonshine_onnx/assets/beckett.wav"))
    return [_resample(*read_wav(path), rate) for path in paths]


def _resample(sound: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    common = math.gcd(rate, wanted)
    return np.asarray(signal.resample_poly(sound, wanted // common, rate // common), np.float32)
