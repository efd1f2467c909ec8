"""WordPiece: English text to the token numbers of the uncased BERT vocabulary."""

import json
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import numpy as np

_WORD_START = "\u2581"
_LONGEST_WORD = 100


def load_vocabulary(path: Path) -> dict[str, int]:
    """Reads a JSON list of tokens: one that starts a word carries U+2581 in front, one that continues it nothing."""
    return {token: number for number, token in enumerate(json.loads(path.read_text(encoding="utf-8")))}


def split_words(text: str) -> list[str]:
    """Words in small letters without accents; every punctuation mark is a word of its own."""
    plain = (c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    spaced = (f" {c} " if _is_punctuation(c) else c for c in plain)
    return "".join(spaced).split()


def _is_punctuation(character: str) -> bool:
    """All ASCII that is neither letter, digit nor space, and what Unicode calls punctuation."""
    if character.isascii():
        return character.isprintable() and not character.isalnum() and not character.isspace()
    return unicodedata.category(character).startswith("P")


def split_word(word: str, vocabulary: Mapping[str, int]) -> list[int]:
    """Tokens of one word, each the longest that fits; [UNK] alone where none fits or the word is very long."""
    tokens: list[int] = []
    start = 0
    while start < len(word):
        prefix = "" if start else _WORD_START
        ends = range(len(word), start, -1) if len(word) <= _LONGEST_WORD else ()
        end = next((end for end in ends if prefix + word[start:end] in vocabulary), None)
        if end is None:
            return [vocabulary["[UNK]"]]
        tokens.append(vocabulary[prefix + word[start:end]])
        start = end
    return tokens


def tokenize(text: str, vocabulary: Mapping[str, int], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Token numbers and mask of a text, as a BERT model reads them.

    Args:
      text: English; tokens beyond the length are left out.
      vocabulary: token -> number, as `load_vocabulary` reads it.
      length: of the result, at least 2.

    Returns:
      input_ids, int64 [length]: [CLS], the text, [SEP], zeros; and attention_mask, int64 [length]: 1 on tokens, then 0.
    """
    tokens = [token for word in split_words(text) for token in split_word(word, vocabulary)][: length - 2]
    row = [vocabulary["[CLS]"], *tokens, vocabulary["[SEP]"]]
    input_ids, attention_mask = np.zeros((2, length), np.int64)
    input_ids[: len(row)], attention_mask[: len(row)] = row, 1
    return input_ids, attention_mask
