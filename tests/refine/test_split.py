import numpy as np
import pytest

from knerex_jax.refine.split import HELD_OUT_EVERY, fold_of, held_out


def test_one_of_every_four_consecutive_samples_judges():
    judging = held_out(np.arange(400)).reshape(-1, HELD_OUT_EVERY)
    np.testing.assert_array_equal(judging.sum(axis=1), 1)


def test_every_fold_has_one_of_every_four_consecutive_samples():
    folds = fold_of(np.arange(400)).reshape(-1, HELD_OUT_EVERY)
    np.testing.assert_array_equal(np.sort(folds, axis=1), np.broadcast_to(np.arange(HELD_OUT_EVERY), folds.shape))
    np.testing.assert_array_equal(folds.reshape(-1) == 0, held_out(np.arange(400)))


def test_a_sample_judges_or_not_wherever_the_batch_begins():
    whole = held_out(np.arange(100))
    np.testing.assert_array_equal(np.concatenate([held_out(np.arange(37)), held_out(np.arange(37, 100))]), whole)


@pytest.mark.parametrize("period", range(2, 17))
def test_data_with_a_period_are_judged_by_samples_of_every_phase(period):
    """Of 512 samples, each phase sends its share of judges, as evenly as drawing by lot would (three deviations)."""
    phase = np.arange(512) % period
    judges = np.bincount(phase[held_out(np.arange(512))], minlength=period)
    share, count = 1 / HELD_OUT_EVERY, np.bincount(phase)
    assert (np.abs(judges - share * count) <= 3 * np.sqrt(count * share * (1 - share))).all()
