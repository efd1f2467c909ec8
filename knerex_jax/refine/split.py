"""Which calibration samples teach, and which judge what was learned."""

import numpy as np

HELD_OUT_EVERY = 4
"""One of so many consecutive samples judges, the others teach."""

FEWEST_SAMPLES = 2 * HELD_OUT_EVERY
"""With fewer samples none judges."""


def held_out(index: np.ndarray) -> np.ndarray:
    """Which samples judge, by their place in the calibration data.

    One of every four consecutive samples; which of the four is drawn by lot (the same lot in every run). Calibration
    data often have a period (three faces, then a landscape), and a judge that sees only landscapes judges badly.

    Args:
      index: int [N], from 0.

    Returns:
      bool [N].
    """
    return fold_of(index) == 0


def fold_of(index: np.ndarray) -> np.ndarray:
    """Which of `HELD_OUT_EVERY` folds a sample belongs to; fold 0 are those of `held_out`.

    Of every four consecutive samples each fold has one.

    Args:
      index: int [N], from 0.

    Returns:
      int [N].
    """
    group, place = np.divmod(np.asarray(index, np.int64), HELD_OUT_EVERY)
    lots = np.random.PCG64(0).random_raw(int(group.max(initial=0)) + 1) >> np.uint64(62)
    return (place - lots.astype(np.int64)[group]) % HELD_OUT_EVERY
