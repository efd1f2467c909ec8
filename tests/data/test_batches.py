import numpy as np
import pytest

from knerex_jax.data.batches import filled_batches


@pytest.mark.parametrize(("count", "size", "true"), [(1, 4, [1]), (4, 4, [4]), (5, 4, [4, 1]), (8, 3, [3, 3, 2])])
def test_every_sample_once_and_the_last_one_repeated(count: int, size: int, true: list[int]) -> None:
    x = np.arange(count * 6, dtype=np.float32).reshape(count, 6)
    made = list(filled_batches({"x": x, "y": x[:, 0]}, size, {"x": (1, 2, 3), "y": ()}))
    assert [n for _, n in made] == true
    assert all(batch["x"].shape == (size, 1, 2, 3) and batch["y"].shape == (size,) for batch, _ in made)
    np.testing.assert_array_equal(np.concatenate([b["x"][:n] for b, n in made]).reshape(count, 6), x)
    last, n = made[-1]
    np.testing.assert_array_equal(last["y"][n:], np.full(size - n, x[-1, 0]))


def test_whole_batches_are_no_copies() -> None:
    x = np.zeros((5, 2))
    first, second = (batch["x"] for batch, _ in filled_batches({"x": x}, 4))
    assert np.shares_memory(first, x)
    assert not np.shares_memory(second, x)
