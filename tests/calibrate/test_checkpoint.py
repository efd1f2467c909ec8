"""A calibration that was cut off goes on where it stopped, to the same counts."""

import jax.numpy as jnp
import numpy as np
import pytest

from knerex_jax.calibrate import checkpoint
from knerex_jax.calibrate.checkpoint import Checkpoints
from knerex_jax.calibrate.measured import RangeRule
from knerex_jax.calibrate.reading import Measurement
from knerex_jax.calibrate.run import _left, measure
from knerex_jax.data.sources import open_source
from knerex_jax.graph.ir import TensorType
from knerex_jax.parallel import processes

SHAPE = (1, 3, 4, 5)
TYPES = {"x": TensorType("float32", SHAPE), "y": TensorType("float32", SHAPE)}
VALUES = np.random.default_rng(3).standard_t(2, (37, 3, 4, 5)).astype(np.float32)
RULES = [RangeRule(pct=0.9, pct_wide=0.99)]


class Cut(Exception):
    """Stands for the end of the process."""


def _measurement(progress=None):
    def fn(params, inputs):
        return {"x": inputs["x"], "y": jnp.maximum(inputs["x"], 0) * params}

    return Measurement(fn, np.float32(2), {"x": None, "y": 1}, TYPES, batch_size=5, progress=progress)


def _run(checkpoints, cut_after=None, values=VALUES):
    """(what was measured, samples that were shown to the model)."""
    shown = []

    def progress(done):
        if not shown or shown[-1] != done:
            shown.append(done)
        if len(shown) == cut_after:
            raise Cut

    source = open_source({"x": values}, {"x": TYPES["x"]})
    return measure(_measurement(progress), source, RULES, checkpoints=checkpoints), shown


def _same(a, b):
    (meta, arrays), (other_meta, others) = a.state.packed(), b.state.packed()
    assert meta == other_meta and arrays.keys() == others.keys()
    for name, array in arrays.items():
        assert array.dtype == others[name].dtype, name
        np.testing.assert_array_equal(array, others[name], err_msg=name)


@pytest.fixture(scope="module")
def whole():
    """The same without interruption."""
    measured, steps = _run(None)
    assert len(steps) == 16, "two readings of eight batches"
    return measured


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_SHARE", 0)
    return lambda key="same": Checkpoints(tmp_path / "c.npz", lambda: key, interval_s=0.0)


@pytest.mark.parametrize(("cut_after", "shown"), [(3, 14), (8, 9), (13, 4)])
def test_it_goes_on_to_the_same_counts(cut_after, shown, kept, whole):
    with pytest.raises(Cut):
        _run(kept(), cut_after)
    second = kept()
    resumed, steps = _run(second)
    _same(whole, resumed)
    assert len(steps) == shown, "the batch that was cut off is read again, those before are not"
    assert f"resumed at sample {second.resumed} of 37, reading {1 + (cut_after > 8)} of the data" in second.notes
    assert not second.path.exists()


def test_other_settings_start_anew_with_a_note(kept, whole):
    with pytest.raises(Cut):
        _run(kept(), 5)
    other = kept("other")
    resumed, shown = _run(other)
    assert len(shown) == 16 and not other.resumed and "other data or options" in other.notes[0]
    _same(resumed, whole)


def test_a_damaged_file_is_no_obstacle(kept):
    checkpoints = kept()
    checkpoints.path.write_bytes(b"PK half")
    assert checkpoints.load(37) is None and "cannot be read" in checkpoints.notes[0]


def test_data_without_identity_and_short_runs_leave_nothing(tmp_path, kept):
    nameless = Checkpoints(tmp_path / "c.npz", lambda: None, interval_s=0.0)
    short = Checkpoints(tmp_path / "c.npz", lambda: pytest.fail("no need to identify the data"))
    for checkpoints in (nameless, short):
        with pytest.raises(Cut):
            _run(checkpoints, 5)
        assert not checkpoints.path.exists()


def test_identity_follows_contents_and_settings(tmp_path):
    types = {"x": TYPES["x"]}
    one = open_source({"x": VALUES}, types).identity()
    assert one is not None and one == open_source({"x": VALUES.copy()}, types).identity()
    assert one != open_source({"x": VALUES + 1}, types).identity()
    assert open_source(lambda: iter(VALUES), types).identity() is None
    assert open_source(iter(VALUES), types).identity() is None
    np.savez(tmp_path / "a.npz", x=VALUES)
    file = open_source(tmp_path / "a.npz", types).identity()
    assert file is not None and file == open_source(tmp_path / "a.npz", types).identity()
    np.savez(tmp_path / "a.npz", x=VALUES[:30])
    assert file != open_source(tmp_path / "a.npz", types).identity()


def _told(monkeypatch, index, *answers):
    """Process `index` of two; the other one's answers to what is asked. Gives what was said to it."""
    said, other = [], iter(answers)

    def exchange(message):
        said.append(message)
        return [message, next(other)] if index == 0 else [next(other), message]

    for name, value in {"count": lambda: 2, "index": lambda: index, "exchange": exchange}.items():
        monkeypatch.setattr(processes, name, value)
    return said


def test_processes_go_on_in_the_reading_of_the_furthest(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_SHARE", 0)
    near, far = (Checkpoints(tmp_path / f"{n}.npz", lambda: "same", interval_s=0.0) for n in ("near", "far"))
    for checkpoints, cut_after in ((near, 3), (far, 13)):
        with pytest.raises(Cut):
            _run(checkpoints, cut_after)
    seen = far.load(37).seen

    said = _told(monkeypatch, 0, b"0", b"")
    left = _left(far, 37)
    assert (left.reading, left.partial.samples) == (1, 20)
    told = said[1]

    _told(monkeypatch, 1, b"1", told)
    left = _left(near, 37)
    assert (left.reading, left.partial, near.resumed) == (1, None, 0)
    assert "reading 2" in near.notes[-1]
    assert left.seen[:2] == seen[:2]
    (meta, arrays), (other_meta, others) = left.seen[2].packed(), seen[2].packed()
    assert meta == other_meta
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name], err_msg=name)


@pytest.mark.parametrize("other", [b"0", b"-1"])
def test_parts_of_the_first_reading_are_kept_whatever_the_others_have(other, kept, monkeypatch):
    with pytest.raises(Cut):
        _run(kept(), 3)
    checkpoints = kept()
    _told(monkeypatch, 1, other)
    assert _left(checkpoints, 37).partial.samples == 10
    assert "resumed at sample 10" in checkpoints.notes[-1]
