"""Which samples a step is taught by, alone and mixed."""

import numpy as np
import pytest

import knerex_jax as kx
from knerex_jax.qat.batches import Batches

COUNT, SIZE = 10, 4
TEACHING = np.array([0, 1, 2, 4, 5, 6, 8, 9])


def batches(inputs: dict[str, np.ndarray], **options) -> Batches:
    return Batches.of(kx.QATConfig(train_batch=SIZE, **options), TEACHING, inputs)


def apart() -> dict[str, np.ndarray]:
    """Samples 1, 10, 100, ... in one input, their negatives in another: sums tell which ones are mixed, and how."""
    powers = np.float32(10) ** np.arange(COUNT, dtype=np.float32)
    return {"x": np.tile(powers[:, None, None], (1, 2, 3)), "y": -powers[:, None]}


def test_an_epoch_teaches_every_sample_once_in_an_order_of_its_own():
    made = batches(apart())
    epochs = [np.concatenate([made(2 * k + place).places for place in (0, 1)]) for k in range(3)]
    assert all(sorted(e) == TEACHING.tolist() for e in epochs)
    assert len({tuple(e) for e in epochs}) == 3
    np.testing.assert_array_equal(made(1).of(apart())["x"], apart()["x"][made(1).places])
    assert made(0).mixing is None


def test_a_mixture_lies_between_its_two_samples_in_every_input():
    inputs, made = apart(), batches(apart(), mixup=1.0)
    for step in range(6):
        drawn = made(step)
        one, other, share = drawn.places, drawn.mixing.partners, drawn.mixing.shares
        assert set(other) <= set(TEACHING) and ((share > 0) & (share < 1)).all()
        mixed = drawn.of(inputs)
        for t, a in inputs.items():
            part = share.reshape(-1, *[1] * (a.ndim - 1))
            np.testing.assert_allclose(mixed[t], (1 - part) * a[one] + part * a[other], rtol=1e-5)
            assert mixed[t].dtype == np.float32


def test_a_share_of_the_samples_stays_as_it_is():
    inputs, made = apart(), batches(apart(), mixup=0.5)
    steps = [made(k) for k in range(200)]
    alone = np.concatenate([d.mixing.shares == 0 for d in steps])
    assert 0.4 < alone.mean() < 0.6
    for d in steps[:20]:
        kept = d.mixing.shares == 0
        np.testing.assert_array_equal(d.of(inputs)["x"][kept], inputs["x"][d.places[kept]])


def test_step_and_seed_alone_decide():
    one, again, other = (batches(apart(), mixup=0.7, seed=seed)(5) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.mixing.shares, again.mixing.shares)
    np.testing.assert_array_equal(one.mixing.partners, again.mixing.partners)
    assert not np.array_equal(one.mixing.shares, other.mixing.shares)


def test_names_cannot_be_mixed():
    with pytest.raises(kx.ConfigError, match="'ids'"):
        batches({"ids": np.zeros((COUNT, 3), np.int64)}, mixup=0.1)
