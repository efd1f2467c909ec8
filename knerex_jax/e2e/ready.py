"""Post-processing that many models share: --post knerex_jax.e2e.ready:top5."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from knerex_jax.e2e.results import Label


def classes(names: Sequence[str] = (), *, most: int = 5) -> Callable[[Mapping[str, np.ndarray], Any], list[Label]]:
    """A post-processing for classifiers with one output of logits [1, classes].

    Args:
      names: of the classes; without, their numbers.
      most: how many are returned, the likeliest first, with the probabilities of a softmax.
    """

    def post(outputs: Mapping[str, np.ndarray], _: Any) -> list[Label]:
        logits = np.ravel(next(iter(outputs.values()))).astype(np.float64)
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        best = np.argsort(-shares, kind="stable")[:most]
        return [Label(names[k] if len(names) else str(k), float(shares[k])) for k in best]

    return post


top5 = classes()


def top1_accuracy(results: Sequence[Sequence[Label]], labels: Sequence[Any]) -> float:
    """A metric for classifiers: share of pictures whose first label is the true one."""
    return float(np.mean([str(r[0].name) == str(label) for r, label in zip(results, labels, strict=True)]))
