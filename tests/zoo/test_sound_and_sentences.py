"""A7 and A8: sounds, tokens, and what the float models are known to do."""

import struct
import wave
from pathlib import Path

import numpy as np
import pytest

from knerex_jax.errors import ArtifactError
from knerex_jax.zoo import ZOO
from knerex_jax.zoo.fetch import packaged_file
from knerex_jax.zoo.notes import synthesize_note
from knerex_jax.zoo.sentences import embed
from knerex_jax.zoo.sounds import load_speech, read_wav
from knerex_jax.zoo.wordpiece import load_vocabulary, split_words, tokenize

SOUND = np.array([0, 0.25, -0.5, 0.75, -1], np.float32)


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(name + struct.pack("<I", len(c)) + c + b"\0" * (len(c) % 2) for name, c in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WAVE" + body


def float_form(channels: int = 1, bits: int = 32) -> tuple[bytes, bytes]:
    return b"fmt ", struct.pack("<HHIIHH", 3, channels, 16000, 64000, 4, bits)


def test_wav_of_floats_behind_other_chunks(tmp_path):
    path = tmp_path / "sound.wav"
    path.write_bytes(riff((b"LIST", b"odd"), float_form(), (b"fact", bytes(4)), (b"data", SOUND.tobytes())))
    sound, rate = read_wav(path)
    assert rate == 16000 and sound.dtype == np.float32
    np.testing.assert_array_equal(sound, SOUND)


def test_wav_of_integers_as_python_writes_it(tmp_path):
    with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes((SOUND * 2**15).astype("<i2").tobytes())
    sound, rate = read_wav(tmp_path / "sound.wav")
    assert rate == 8000
    np.testing.assert_array_equal(sound, SOUND)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"RIFF",
        riff((b"data", bytes(8))),
        riff(float_form()),
        riff(float_form(channels=2), (b"data", bytes(8))),
        riff(float_form(bits=64), (b"data", bytes(8))),
        riff((b"fmt ", b"short"), (b"data", bytes(8))),
        riff(float_form(), (b"data", bytes(7))),
    ],
)
def test_other_sounds_are_refused(tmp_path, content):
    path = tmp_path / "sound.wav"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="not a readable sound"):
        read_wav(path)


@pytest.mark.parametrize("key", [0, 24, 48, 87])
def test_a_note_has_the_pitch_of_its_key(key):
    sound = synthesize_note(key, np.random.default_rng(key))
    assert sound.shape == (43844,) and 0.1 <= np.abs(sound).max() <= 0.7
    frequency = np.fft.rfftfreq(len(sound), 1 / 22050)
    spectrum = np.abs(np.fft.rfft(sound))
    pitch = 27.5 * 2 ** (key / 12)
    peaks = frequency[spectrum > spectrum.max() / 3]
    np.testing.assert_allclose(peaks / pitch, np.round(peaks / pitch), atol=0.15)  # harmonics only
    assert np.isclose(peaks.min(), pitch, rtol=0.05)  # the fundamental among them


TINY = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "▁un": 4, "▁run": 5, "ning": 6, "n": 7, "▁!": 8, "▁u": 9}


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Running!", [2, 5, 6, 8, 3]),  # the longest piece first: ning, not n
        ("un", [2, 4, 3]),
        ("unn  RÜN", [2, 4, 7, 5, 3]),
        ("une !", [2, 1, 8, 3]),  # no piece for e: the whole word is unknown
        ("u" * 101, [2, 1, 3]),
        ("", [2, 3]),
        ("un un un un un un un un", [2, 4, 4, 4, 4, 4, 4, 3]),
    ],
)
def test_wordpiece_on_a_tiny_vocabulary(text, tokens):
    input_ids, attention_mask = tokenize(text, TINY, 8)
    assert input_ids.tolist() == tokens + [0] * (8 - len(tokens))
    assert attention_mask.tolist() == [1] * len(tokens) + [0] * (8 - len(tokens))
    assert input_ids.dtype == attention_mask.dtype == np.int64


def test_words_are_split_at_spaces_and_punctuation():
    assert split_words("Don't stop,\tCafé-Bar “now”\n2.5$") == [
        *("don", "'", "t", "stop", ",", "cafe", "-", "bar", "“", "now", "”", "2", ".", "5", "$")
    ]


def test_embedding_is_the_unit_mean_of_the_real_tokens():
    tokens = np.array([[[3.0, 0], [0, 4], [9, 9]], [[0, 2], [7, 7], [7, 7]], [[0, 0], [0, 0], [1, 1]]])
    np.testing.assert_allclose(embed(tokens, np.array([2, 1, 2])), [[0.6, 0.8], [0, 1], [0, 0]])


@pytest.mark.models
def test_tokens_of_the_real_vocabulary():
    vocabulary = load_vocabulary(packaged_file("bert-tokenizer", "package/assets/vocab.json"))
    assert len(vocabulary) == 30522
    published = {
        "Hello, world!": [101, 7592, 1010, 2088, 999, 102],
        "The quick brown fox jumps over the lazy dog.": [
            *(101, 1996, 4248, 2829, 4419, 14523, 2058, 1996, 13971, 3899, 1012, 102)
        ],
        "embeddings": [101, 7861, 8270, 4667, 2015, 102],
    }
    for text, tokens in published.items():
        input_ids, attention_mask = tokenize(text, vocabulary, 16)
        assert input_ids[: attention_mask.sum()].tolist() == tokens


@pytest.mark.models
def test_speech_is_resampled_whole():
    sounds = load_speech(22050)
    assert len(sounds) == 28 and all(0.01 < np.abs(sound).max() < 1.5 for sound in sounds)
    path = Path(packaged_file("useful-moonshine-onnx", "moonshine_onnx/assets/beckett.wav"))
    sound, rate = read_wav(path)
    assert len(sounds[-1]) / 22050 == pytest.approx(len(sound) / rate, abs=1e-3)


@pytest.mark.models
def test_a7_hears_the_notes(evaluated):
    data, outputs = evaluated("A7")
    window = data.inputs["serving_default_input_2:0"]
    assert np.abs(window).max() <= 1 and len(set(data.labels.tolist())) > 15
    measures = ZOO["A7"].metrics(outputs, outputs, data.labels)
    assert measures == {"agreement": 1, "activation_agreement": 1, "notes_right": 1}
    shifted = {name: np.roll(value, 1, axis=2) for name, value in outputs.items()}
    assert ZOO["A7"].metrics(shifted, outputs, data.labels)["notes_right"] == 0


@pytest.mark.models
def test_a8_finds_the_paraphrases(evaluated):
    data, outputs = evaluated("A8")
    assert data.labels.shape == (100, 2) and (data.labels[:, 1] == data.inputs["attention_mask"].sum(axis=1)).all()
    unknown, end = 100, 102
    assert not (data.inputs["input_ids"] == unknown).any()
    assert ((data.inputs["input_ids"] == end).sum(axis=1) == 1).all()  # no sentence is cut
    measures = ZOO["A8"].metrics(outputs, outputs, data.labels)
    assert measures["auc"] > 0.999 and measures["nearest_is_paraphrase"] == 1
    assert measures["similar_cosine"] > 0.6 and abs(measures["different_cosine"]) < 0.1
    assert measures["mean_cosine_change"] == 0 and measures["cosine_to_float"] == pytest.approx(1)
    shuffled = {name: np.roll(value, 1, axis=0) for name, value in outputs.items()}
    assert ZOO["A8"].metrics(shuffled, outputs, data.labels)["nearest_is_paraphrase"] == 0
