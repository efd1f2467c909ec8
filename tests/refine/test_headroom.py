"""By which rule one headroom is taken before another."""

from knerex_jax.refine.headroom import choose_headroom

QUIET = {3.0: (50.0, 50.1), 2.0: (56.0, 56.1), 1.0: (62.0, 62.1), 0.5: (65.0, 65.1), 0.0: (68.0, 68.1)}
"""Nothing exceeds the ranges: every bit of headroom costs 6 dB."""


def test_without_surprises_no_headroom_is_best():
    assert choose_headroom(QUIET, 2.0) == 0.0


def test_of_headrooms_as_good_as_the_best_the_largest_is_taken():
    assert choose_headroom({**QUIET, 0.5: (67.5, 67.5)}, 2.0) == 0.5


def test_the_default_stands_unless_another_gains_a_decibel():
    alike = {3.0: (60.0,), 2.0: (60.0,), 1.0: (60.9,), 0.0: (60.9,)}
    assert choose_headroom(alike, 2.0) == 2.0
    assert choose_headroom({**alike, 0.0: (61.1,)}, 2.0) == 1.0


def test_a_fold_that_needs_headroom_keeps_it():
    ruined = {h: (snr[0], snr[1] if h >= 2 else 15.0) for h, snr in QUIET.items()}
    assert choose_headroom(ruined, 2.0) == 2.0


def test_a_freak_beyond_every_headroom_decides_nothing():
    freak = {h: (*snr, *snr, 5.0 + 2 * h) for h, snr in QUIET.items()}
    assert choose_headroom(freak, 2.0) == 0.0
