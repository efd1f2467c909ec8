"""Measures of a model's answers: against labels, and against the float model where there are none."""

import numpy as np


def top_k(logits: np.ndarray, labels: np.ndarray, k: int = 1) -> float:
    """Share of samples whose label is among the k largest of [N, classes]; ties count for the lower class index."""
    ranked = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return float(np.mean(np.any(ranked == labels[:, None], axis=1)))


def agreement(outputs: np.ndarray, float_outputs: np.ndarray) -> float:
    """Share of samples [N, classes] for which both have the same first choice."""
    return float(np.mean(np.argmax(outputs, axis=1) == np.argmax(float_outputs, axis=1)))


def area_under_roc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Probability that a positive sample (label 1) scores above a negative one (label 0); ties count half.

    Both [N]. NaN where one of the classes is absent.
    """
    positive, negative = scores[labels == 1], scores[labels == 0]
    if not positive.size or not negative.size:
        return float("nan")
    wins = np.mean(positive[:, None] > negative[None, :])
    ties = np.mean(positive[:, None] == negative[None, :])
    return float(wins + ties / 2)


def balanced_accuracy(decisions: np.ndarray, labels: np.ndarray) -> float:
    """Mean of the shares of positive and of negative samples decided rightly.

    Args:
      decisions: bool [N].
      labels: 0 or 1, [N].

    Returns:
      0 to 1; NaN where one of the classes is absent.
    """
    positive, negative = decisions[labels == 1], decisions[labels == 0]
    if not positive.size or not negative.size:
        return float("nan")
    return float((np.mean(positive) + np.mean(~negative)) / 2)


def edit_distance(read: str, true: str) -> int:
    """Fewest insertions, deletions and substitutions of single characters between two texts (Levenshtein)."""
    row = list(range(len(true) + 1))
    for i, character in enumerate(read, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(true, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (character != other))
    return row[-1]


def overlap(mask: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two bool arrays of one shape; 1 where both are empty."""
    union = np.count_nonzero(mask | other)
    return float(np.count_nonzero(mask & other) / union) if union else 1.0


def f1_score(found: np.ndarray, true: np.ndarray) -> float:
    """Harmonic mean of precision and recall of a bool array against the true one; 1 where both are empty."""
    total = np.count_nonzero(found) + np.count_nonzero(true)
    return float(2 * np.count_nonzero(found & true) / total) if total else 1.0
