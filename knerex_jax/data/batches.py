"""Any number of samples as batches of one size, so that one shape is compiled for all of them."""

from collections.abc import Iterator, Mapping

import numpy as np


def filled_batches(
    arrays: Mapping[str, np.ndarray], size: int, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Batches of one size; what the last one lacks are repetitions of the last sample.

    Args:
      arrays: name -> [N, ...], of at least one sample.
      size: samples per batch.
      shapes: name -> shape of one sample in the batch; None leaves samples as they are.

    Yields:
      name -> [size, *shape], and how many of its samples are not repetitions.
    """
    count = len(next(iter(arrays.values())))
    for start in range(0, count, size):
        whole = slice(start, start + size)  # of which no copy is made
        places = whole if whole.stop <= count else np.minimum(np.arange(start, whole.stop), count - 1)
        batch = {name: array[places] for name, array in arrays.items()}
        if shapes is not None:
            batch = {name: array.reshape(size, *shapes[name]) for name, array in batch.items()}
        yield batch, min(size, count - start)
