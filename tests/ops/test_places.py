"""Elements at known places against NumPy's."""

import jax
import numpy as np
import pytest

from knerex_jax.ops.places import taken

PLACES = {
    "spread": [np.repeat(np.arange(5), 3), np.repeat(np.arange(4), 2)],
    "unevenly": [[0, 0, 1, 2, 2, 3, 4], [0, 1, 2, 3]],
    "fewer": [[0, 2], [1, 3]],
    "fewer in steps of one": [[0, 1, 2], [0, 1]],
    "once around": [np.tile(np.arange(5), 2), [3, 2, 1, 0]],
}


@pytest.mark.parametrize("rank", [2, 4])
@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
def test_elements_are_those_at_the_places(places, rank):
    x = np.random.default_rng(0).integers(-9, 9, (2, 3, 5, 4)[-rank:], np.int8)
    axes = (rank - 2, rank - 1)
    found = jax.jit(jax.vmap(lambda x: taken(x, places, axes)))(np.stack([x, x + 1]))
    expected = np.take(np.take(x, places[0], axes[0]), places[1], axes[1])
    np.testing.assert_array_equal(found, np.stack([expected, expected + 1]))


def test_spread_elements_need_no_gather():
    text = str(jax.make_jaxpr(lambda x: taken(x, PLACES["spread"], (2, 3)))(np.zeros((1, 3, 5, 4), np.float32)))
    assert "gather" not in text
