"""By which rule one headroom and guard are taken before others."""

from knerex_jax.refine.headroom import HEADROOMS, MOST, Room, choose_room, rooms

DEFAULT = Room(2.0, 3)
QUIET = {Room(h, 3): (68.0 - 6 * h, 68.1 - 6 * h) for h in (3.0, 2.0, 1.0, 0.5, 0.0)}
"""Nothing exceeds the ranges: every bit of headroom costs 6 dB."""


def test_without_surprises_no_headroom_is_best():
    assert choose_room(QUIET, DEFAULT) == Room(0.0, 3)


def test_of_those_as_good_as_the_best_the_one_with_most_room_is_taken():
    assert choose_room({**QUIET, Room(0.5, 3): (66.5, 66.5)}, DEFAULT) == Room(0.5, 3)
    assert choose_room({**QUIET, Room(0.0, 1): (66.5, 66.5), Room(0.0, 2): (67.9, 67.9)}, DEFAULT) == Room(0.0, 1)


def test_the_default_stands_unless_another_gains_two_decibels():
    alike = {Room(3.0, 3): (60.0,), DEFAULT: (60.0,), Room(1.0, 3): (61.9,), Room(0.0, 0): (61.9,)}
    assert choose_room(alike, DEFAULT) == DEFAULT
    assert choose_room({**alike, Room(0.0, 0): (62.1,)}, DEFAULT) == Room(1.0, 3)


def test_a_fold_that_needs_headroom_keeps_it():
    ruined = {room: (snr[0], snr[1] if room.headroom >= 2 else 15.0) for room, snr in QUIET.items()}
    assert choose_room(ruined, DEFAULT) == DEFAULT


def test_a_narrower_guard_lets_the_headroom_go_where_small_channels_exceed():
    wide = {Room(room.headroom, 3): (snr[0], snr[1] if room.headroom >= 2 else 15.0) for room, snr in QUIET.items()}
    narrow = {Room(room.headroom, 1): (snr[0] - 3, snr[1] - 3) for room, snr in QUIET.items() if room.headroom >= 1}
    assert choose_room({**wide, **narrow}, DEFAULT) == Room(1.0, 1)


def test_a_freak_beyond_every_headroom_decides_nothing():
    freak = {room: (*snr, *snr, 5.0 + 2 * room.headroom) for room, snr in QUIET.items()}
    assert choose_room(freak, DEFAULT) == Room(0.0, 3)


def test_no_guard_wider_than_the_default_is_tried():
    tried = rooms(Room(2.0, 1), (0, 1, 2, 3))
    assert tried[0] == Room(2.0, 1) and set(tried) == {Room(h, g) for h in HEADROOMS for g in (0, 1)} | {Room(MOST, 1)}
