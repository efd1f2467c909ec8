"""The small helpers of the published interface."""

import numpy as np
import pytest

import knerex_jax as kx


@pytest.mark.parametrize(
    ("largest", "radix"), [(0.5, 8), (1.0, 7), (1.0001, 6), (151.0, -1), (0.6, 7), (2.0**-24, 31), (2.0**23, -16)]
)
def test_radix_of_the_published_formula(largest, radix):
    with pytest.warns(DeprecationWarning, match="not needed"):
        assert kx.get_radix([np.zeros((1, 3)), np.asarray([[0.1 * largest, -largest]])]) == radix


@pytest.mark.parametrize(
    "inputs",
    [[], [np.zeros(0)], [np.zeros(3)], [np.asarray([1.0, np.nan])], [np.asarray([np.inf])], [[2.0**-25]], [[1e7]]],
)
def test_inputs_without_a_radix_are_refused(inputs):
    with pytest.warns(DeprecationWarning), pytest.raises(ValueError, match=r"radix"):
        kx.get_radix(inputs)


@pytest.mark.parametrize("shape", [(4, 5, 3), (2, 4, 5, 3)])
def test_channels_come_first(shape):
    image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    moved = kx.convert_channel_last_to_first(image)
    assert moved.shape == (2 if len(shape) == 4 else 1, 3, 4, 5) and moved.dtype == np.uint8
    assert moved[:, 2, 1, 3].tolist() == np.ravel(image[..., 1, 3, 2]).tolist()


def test_only_images_are_converted():
    with pytest.raises(ValueError, match="this array 2"):
        kx.convert_channel_last_to_first(np.zeros((3, 3)))
