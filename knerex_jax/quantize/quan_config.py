"""The published `quan_config`: overrides by node, read from a dictionary, a file or JSON text, and checked for form.

    {"all_nodes": {"bitwidth": 8}, "head*": {"bitwidth": 15}, "conv1": {"radix": 5, "scale": [1.5, 1.25, 1.0]}}

A selector is `all_nodes`, `output_nodes`, a glob pattern, or the name of a node or tensor. A value is a number, a list
with one number per channel, or {"all": value}. What a model and platform make of it is decided in `overrides`.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from knerex_jax.errors import ConfigError
from knerex_jax.suggest import nearest

QuanConfig = dict[str, dict[str, Any]]
"""Selector -> key -> bits (`bitwidth`), or a list of one number, or of one per channel."""

KEYS = ("scale", "radix", "min", "max", "bitwidth")
_BITS = {8: 8, 15: 15, 16: 15, "8": 8, "15": 15, "16": 15, "int8": 8, "int16": 15}


def read_quan_config(value: Any) -> QuanConfig | None:
    """A `quan_config` in its one form.

    Args:
      value: a dictionary, the path of a JSON or YAML file, JSON text, or None.

    Raises:
      ConfigError: not readable, an unknown key, or a value of the wrong kind; with a suggestion.
    """
    if value is None:
        return None
    held = _read(value) if isinstance(value, str | Path) else value
    if not isinstance(held, Mapping):
        raise _malformed("quan_config", held, "a dictionary: selector -> {key: value}")
    return {_name(selector): _entry(selector, entry) for selector, entry in held.items()}


def _read(source: str | Path) -> Any:
    if isinstance(source, str) and source.lstrip().startswith("{"):
        return _parsed(source, "quan_config")
    try:
        text = Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"cannot read quan_config: {e}", where=str(source), fix="check the path") from e
    return _parsed_yaml(text, str(source)) if Path(source).suffix in (".yaml", ".yml") else _parsed(text, str(source))


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as e:
        raise ConfigError(f"quan_config is no valid JSON: {e}", where=where, fix="correct it") from e


def _parsed_yaml(text: str, where: str) -> Any:
    try:
        import yaml  # pyright: ignore[reportMissingModuleSource]
    except ImportError as e:
        fix = 'pip install "knerex-jax[yaml]", or write the file as JSON'
        raise ConfigError("reading YAML needs PyYAML, which is not installed", where=where, fix=fix) from e
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ConfigError(f"quan_config is no valid YAML: {e}", where=where, fix="correct it") from e


def _name(selector: Any) -> str:
    if not isinstance(selector, str):
        raise _malformed("quan_config", selector, "selectors that are text")
    return selector


def _entry(selector: str, entry: Any) -> dict[str, Any]:
    where = f"quan_config[{selector!r}]"
    if not isinstance(entry, Mapping):
        raise _malformed(where, entry, f"a dictionary of {', '.join(KEYS)}")
    for key in entry:
        if key not in KEYS:
            fix = nearest(key, KEYS, f"the keys are {', '.join(KEYS)}")
            raise ConfigError(f"unknown key {key!r}", where=where, fix=fix)
    return {key: _value(f"{where}[{key!r}]", key, value) for key, value in entry.items()}


def _value(where: str, key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        if set(value) != {"all"}:
            fix = 'write {"all": value}; for one output of several, name its tensor as the selector'
            raise ConfigError("outputs are not told apart by number", where=f"{where} = {value!r}", fix=fix)
        value = value["all"]
    if key == "bitwidth":
        if isinstance(value, bool) or not isinstance(value, int | str) or value not in _BITS:
            raise _malformed(where, value, "8 or 15 (16 and 'int16' mean 15, 'int8' 8), one for the whole tensor")
        return _BITS[value]
    numbers = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    numbers = list(numbers) if isinstance(numbers, list | tuple) else [numbers]
    kind, what = (int, "integer") if key == "radix" else (int | float, "finite number")
    if not numbers or any(isinstance(n, bool) or not isinstance(n, kind) or not math.isfinite(n) for n in numbers):
        raise _malformed(where, value, f"one {what}, or a list of them with one per channel")
    return numbers


def _malformed(where: str, value: Any, wanted: str) -> ConfigError:
    return ConfigError(f"{where} has to be {wanted}", where=f"{where} = {value!r}", fix="correct the value")
