"""Merging, saving and loading what calibration measured."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from knerex_jax.calibrate.cuts import cut_ranges, dropped
from knerex_jax.calibrate.hints import data_hints, detector_sign
from knerex_jax.calibrate.measured import Measured
from knerex_jax.calibrate.npz import read_npz, write_npz
from knerex_jax.calibrate.observers import TAIL_BITS, Extremes, Grid, Histogram
from knerex_jax.calibrate.ranges import Cut, Ranges, TensorRange
from knerex_jax.calibrate.state import CalibrationState, code_of, middle, state_of_range
from knerex_jax.errors import ArtifactError, ConfigError

GRID = Grid(bits=9, octaves=6, tail=4)


def _counted(values: np.ndarray):
    """State of one tensor [n, C], as two readings would give it, with counts made by NumPy."""
    low, high = values.min(0), values.max(0)
    state = state_of_range(1, len(values), Extremes(low, high, low * 0))
    base = state.next_window(GRID.octaves)
    place = code_of(np.abs(values), GRID.bits) - (base.astype(np.int64) << GRID.bits)
    bins = np.clip(place + 1, 0, GRID.size + 1) + (values < 0) * (GRID.size + 2)
    coarse = code_of(np.abs(values), TAIL_BITS) - (GRID.tail_base(base).astype(np.int64) << TAIL_BITS)
    bins = np.where((place < 0) & (coarse >= 0), 2 * (GRID.size + 2) + coarse, bins)
    counts = np.zeros((GRID.rows, values.shape[1]), np.int64)
    np.add.at(counts, (bins, np.arange(values.shape[1])), 1)
    small = np.where(place < 0, values, 0)
    below = np.maximum(np.stack([small.max(0), -small.min(0)]), 0).astype(np.float32)
    return state.extend(Histogram(counts.ravel(), base, below), GRID)


def _random(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(2, (n, 3)).astype(np.float32)


def test_merging_adds_up_beyond_int32():
    state = _counted(_random(500, 0))
    big = replace(state, values=2**30, counts=state.counts * np.int32(4_000_000))
    twice = big.merge(big).merge(big.merge(big))
    assert twice.counts.dtype == np.int64 and twice.values == 2**32
    np.testing.assert_array_equal(twice.counts, 4 * big.counts.astype(np.int64))


def test_merging_different_magnitudes_forgets_what_lies_far_below():
    small, large = _random(300, 1) * np.float32(1e-6), _random(300, 2)
    merged, whole = _counted(small).merge(_counted(large)), _counted(np.concatenate([small, large]))
    np.testing.assert_array_equal(merged.keys, whole.keys)
    np.testing.assert_array_equal(merged.counts, whole.counts)
    np.testing.assert_array_equal(merged.floor, whole.floor)
    np.testing.assert_array_equal(merged.tail_floor, whole.tail_floor)
    np.testing.assert_array_equal(merged.tail_keys, whole.tail_keys)
    np.testing.assert_array_equal(merged.tail, whole.tail)
    np.testing.assert_allclose(merged.below, whole.below, rtol=1e-3)
    assert str(cut_ranges(merged, (0.9,))) == str(cut_ranges(whole, (0.9,)))


def test_merging_with_a_tensor_that_was_always_zero():
    zero, other = _counted(np.zeros((100, 3), np.float32)), _counted(_random(300, 3))
    assert cut_ranges(zero, (0.9,))[0][1]
    whole = _counted(np.concatenate([np.zeros((100, 3), np.float32), _random(300, 3)]))
    assert str(cut_ranges(zero.merge(other), (0.9,))) == str(cut_ranges(whole, (0.9,)))


def test_states_of_different_measurements_do_not_merge():
    state = CalibrationState(1, {"a": _counted(_random(50, 0))})
    with pytest.raises(ConfigError, match="different models"):
        state.merge(CalibrationState(1, {"b": state.tensors["a"]}))
    with pytest.raises(ConfigError, match="same measurement"):
        state.merge(CalibrationState(1, {"a": _counted(_random(50, 0)[:, :2])}))
    with pytest.raises(ConfigError, match="same measurement"):
        state.merge(CalibrationState(1, {"a": replace(state.tensors["a"], bits=6)}))


def test_a_cut_below_the_counted_part_is_a_bound_until_it_is_read_again():
    values = _random(1000, 4)
    values[:20, 0] = 1e20
    state = _counted(values)
    ((cut, final),) = cut_ranges(state, (0.9,))
    exact = np.sort(np.abs(values[:, 0]))[-101]
    assert not final and cut.channel_max[0] >= exact


def test_values_above_the_first_window_count_as_the_maximum():
    """The float model may round differently when it is compiled again: 7.9999995 in one reading, 8 in the next."""
    values = _random(1000, 5)
    values[:300, 0] = np.float32(7.9999995)
    low, high = values.min(0), values.max(0)
    state = state_of_range(1, len(values), Extremes(np.maximum(low, -7), np.minimum(high, np.float32(7.9999995)), low))
    base = state.next_window(GRID.octaves)
    counts = np.zeros((GRID.rows, 3), np.int32)
    counts[GRID.size + 1, 0] = 300
    counts[0] = 1000 - counts.sum(0)
    ((cut, final),) = cut_ranges(
        state.extend(Histogram(counts.ravel(), base, np.zeros((2, 3), np.float32)), GRID), (0.9,)
    )
    assert final and cut.channel_max[0] == np.float32(7.9999995)


def _measured() -> Measured:
    state = CalibrationState(7, {"a/b:0": _counted(_random(500, 0)), "c": _counted(np.zeros((5, 2), np.float32))})
    return Measured(state, {"c": (1, 2)}, frozenset({"k"}), {"c": frozenset({"c"})}, ("a note",))


def test_what_was_measured_survives_a_file(tmp_path):
    measured = _measured()
    measured.save(tmp_path / "s.state")
    loaded = Measured.load(tmp_path / "s.state")
    assert replace(loaded, state=measured.state) == measured
    assert loaded.state.samples == 7 and list(loaded.state.tensors) == ["a/b:0", "c"]
    for t, s in measured.state.tensors.items():
        for key, value in vars(s).items():
            np.testing.assert_array_equal(getattr(loaded.state.tensors[t], key), value)
    assert list(tmp_path.iterdir()) == [tmp_path / "s.state"]


def test_measurements_of_different_models_do_not_merge():
    with pytest.raises(ConfigError, match="different models"):
        _measured().merge(replace(_measured(), outputs={}))


def test_notes_on_accuracy_survive_a_merge():
    assert _measured().merge(replace(_measured(), notes=("another",))).notes == ("a note", "another")


def test_an_incomplete_measurement_is_refused(tmp_path):
    write_npz(tmp_path / "m.npz", "measured calibration data", {"samples": 3, "tensors": []}, {})
    with pytest.raises(ArtifactError, match="incomplete"):
        Measured.load(tmp_path / "m.npz")


def _ranges() -> Ranges:
    cut = Cut(-1.5, 2.0, np.array([-1.5, 0], np.float32), np.array([1, 2], np.float32))
    wide = Cut(-3.0, 2.5, np.array([-3, 0], np.float32), np.array([1, 2.5], np.float32))
    return Ranges({"t": TensorRange(cut, wide, 1, 12345678901)}, 42, 0.999, 0.999999, ("take more samples",))


def test_ranges_survive_a_file(tmp_path):
    ranges = _ranges()
    ranges.save(tmp_path / "r.npz")
    assert str(Ranges.load(tmp_path / "r.npz")) == str(ranges)


def test_ranges_say_the_largest_magnitude_for_a_width():
    t = _ranges()["t"]
    assert (t.layer_absmax(8), t.layer_absmax(15)) == (2.0, 3.0)
    np.testing.assert_array_equal(t.channel_absmax(8), [1.5, 2])
    np.testing.assert_array_equal(t.channel_absmax(15), [3, 2.5])


def test_ranges_are_a_pytree():
    leaves, tree = jax.tree.flatten(_ranges())
    assert len(leaves) == 8
    assert str(jax.tree.unflatten(tree, leaves)) == str(_ranges())


@pytest.mark.parametrize("damage", ["missing", "cut", "altered", "text", "kind", "newer", "incomplete"])
def test_a_damaged_file_is_refused(damage, tmp_path):
    path = tmp_path / "r.npz"
    _ranges().save(path)
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "altered":
        at = data.index(b"narrow/channel_max") + 150
        path.write_bytes(data[:at] + bytes(255 - b for b in data[at : at + 8]) + data[at + 8 :])
    elif damage == "text":
        path.write_text("hello")
    elif damage == "kind":
        _measured().save(path)
    elif damage == "newer":
        meta, arrays = read_npz(path, "calibration ranges")
        write_npz(path, "calibration ranges", {**meta, "version": 99}, arrays)
    else:
        write_npz(path, "calibration ranges", {"samples": 3, "tensors": [{"name": "t"}]}, {})
    with pytest.raises(ArtifactError) as e:
        Ranges.load(path)
    assert str(path) in str(e.value)


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="cannot write"):
        _ranges().save(tmp_path / "file" / "r.npz")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.parametrize(
    ("pct", "count", "expected"),
    [(0.999, 1000, 1), (0.999, 999, 0), (0.9, 10, 1), (0.999999, 10**6, 1), (0.999999, 10**6 - 1, 0), (1.0, 10**9, 0),
     (0.999, 10**12, 10**9), (0.0, 5, 4)],
)  # fmt: skip
def test_dropped_counts_are_decimal(pct, count, expected):
    assert dropped(pct, count) == expected


def test_the_middle_of_a_bin_is_close_to_all_of_it():
    values = np.random.default_rng(0).uniform(1, 2, 1000) * 2 ** np.arange(-100, 100, 0.2)
    values = values.astype(np.float32)
    for bits in (6, 9):
        assert (np.abs(middle(code_of(values, bits), bits) / values - 1) <= 2.0 ** -(bits + 1)).all()


@pytest.mark.parametrize(
    ("outputs", "looks"),
    [({"logits": (1, 1000)}, False), ({"out": (1, 3549, 6)}, True), ({"out": (1, 255, 52, 52)}, True),
     ({"a": (1, 10), "b": (1, 4)}, True), ({"yolo_head": (1, 10)}, True), ({"detection_scores": (1, 10)}, True),
     ({"prob": (1, 256, 7, 7)}, False), ({"classifier": (1, 10)}, False),
     ({"scores": (1, 10)}, False), ({"scores": (1, 10, 4)}, True)],
)  # fmt: skip
def test_detectors_are_recognised(outputs, looks):
    assert (detector_sign(outputs) is not None) == looks


def test_hints_fit_the_run():
    detector = {"boxes": (1, 896, 16)}
    assert data_hints(100, 0.999, {"logits": (1, 10)}) == []
    assert data_hints(100, 1.0, detector) == []
    assert len(data_hints(99, 0.999, detector)) == 2
