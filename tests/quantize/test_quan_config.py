"""quan_config as it is written: every key in every form, files of either kind; and the refusal of torn classes."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import Net, samples
from planning import EVERY_CHANNEL, WIDTHS, exact_ranges

from knerex_jax.errors import ConfigError
from knerex_jax.graph.ir import Model
from knerex_jax.ops import REGISTRY
from knerex_jax.quantize.overrides import resolve
from knerex_jax.quantize.planner import plan_model
from knerex_jax.quantize.quan_config import KEYS, read_quan_config
from knerex_jax.quantize.structure import analyse
from knerex_jax.targets import TARGETS

NUMBERS = {"scale": 1.5, "radix": 5, "min": -2.5, "max": 3.0}


@pytest.mark.parametrize("key", NUMBERS)
def test_numbers_for_all_channels_and_for_each(key):
    one, many = NUMBERS[key], [NUMBERS[key], 0 * NUMBERS[key] + 1]
    for form in (one, [one], (one,), {"all": one}, np.asarray(one), np.asarray([one])):
        assert read_quan_config({"n": {key: form}}) == {"n": {key: [one]}}
    for form in (many, tuple(many), {"all": many}, np.asarray(many)):
        assert read_quan_config({"n": {key: form}}) == {"n": {key: many}}


@pytest.mark.parametrize(
    ("written", "bits"),
    [(8, 8), ("8", 8), ("int8", 8), (15, 15), (16, 15), ("15", 15), ("16", 15), ("int16", 15), ({"all": 16}, 15)],
)
def test_widths(written, bits):
    assert read_quan_config({"n": {"bitwidth": written}}) == {"n": {"bitwidth": bits}}


def test_the_keys_are_these():
    assert set(KEYS) == {*NUMBERS, "bitwidth"}


class YAMLError(Exception):
    """What the stand-in raises."""


def _load(text: str) -> object:
    try:
        return json.loads(text)  # JSON is YAML
    except ValueError as e:
        raise YAMLError(str(e)) from e


@pytest.fixture
def yaml(monkeypatch) -> None:
    """A reader in place of PyYAML, which is optional."""
    monkeypatch.setitem(sys.modules, "yaml", SimpleNamespace(safe_load=_load, YAMLError=YAMLError))


def written(folder: Path, suffix: str, text: str) -> Path:
    path = folder / f"quan{suffix}"
    path.write_text(text)
    return path


@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
def test_yaml_files_are_read_by_their_suffix(yaml, tmp_path, suffix):
    path = written(tmp_path, suffix, '{"all_nodes": {"bitwidth": "int16"}, "head*": {"radix": [5, 4]}}')
    expected = {"all_nodes": {"bitwidth": 15}, "head*": {"radix": [5, 4]}}
    assert read_quan_config(path) == read_quan_config(str(path)) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", ["no valid YAML", "quan.yaml"]),
        ("[1, 2]", ["a dictionary"]),
        ("null", ["a dictionary"]),
        ('{"n": {"radix": true}}', ["one integer"]),
    ],
)
def test_yaml_that_is_no_quan_config_is_an_error(yaml, tmp_path, text, words):
    with pytest.raises(ConfigError) as caught:
        read_quan_config(written(tmp_path, ".yaml", text))
    for word in [*words, "fix:"]:
        assert word in str(caught.value)


def test_a_json_file_is_an_error_with_its_name_where_it_is_none(tmp_path):
    with pytest.raises(ConfigError, match=r"valid JSON[\s\S]*quan\.json"):
        read_quan_config(written(tmp_path, ".json", "radix: 3"))


def pairs_meet() -> Model:
    """A sum of four channels that meet in the channels of what reshapes it."""
    net = Net({"x": (1, 3, 6, 6)})
    both = net.add("Add", net.conv("x", 4, 1), net.conv("x", 4, 1), name="both")
    return net.model(net.conv(net.add("Reshape", both, shape=(1, 2, 12, 6)), 3, 1))


@pytest.mark.parametrize(
    ("scale", "taken"), [([1.5, 1.5, 1.5, 1.5], True), ([1.25, 1.5, 1.25, 1.5], False)], ids=["whole", "torn"]
)
def test_channels_that_share_a_scale_cannot_be_told_apart(scale, taken):
    model, target = pairs_meet(), TARGETS["720"]
    overrides = resolve({"both": {"scale": scale}}, model, analyse(model, target, REGISTRY), target)
    ranges = exact_ranges(model, samples(model, 4), "720")
    plan = plan_model(model, ranges, WIDTHS["int8"], target, policy=EVERY_CHANNEL, overrides=overrides).plan
    if taken:
        assert plan.notes == ()
        np.testing.assert_array_equal(plan.formats["both:0"].scale, np.float32(scale))
    else:
        (note,) = plan.notes
        assert (note.where, note.applied) == ("both:0", "unchanged")
        assert note.why == "some of its channels share one scale"
