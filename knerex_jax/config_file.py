"""Config files: the options of a run as TOML (or YAML), read, and written back beside the results.

Paths in a file are relative to the folder of the file; paths on a command line and in Python to the current folder.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tomli_w

from knerex_jax.data.functions import is_function_name
from knerex_jax.data.preprocess import Preprocess
from knerex_jax.errors import ConfigError
from knerex_jax.quantize.config import PTQConfig, known_options
from knerex_jax.quantize.options import check_names

RUN_FILE = "run.toml"
"""Name of the file that a run leaves beside its results; `knerex ptq --config` of it repeats the run."""

QAT_TABLE = "qat"
"""The table in such a file that holds the options of a fine-tuning."""

PATHS = ("p_onnx", "np_txt", "p_output", "quan_config", "ip_config", "counts")


def load_config(path: str | Path) -> PTQConfig:
    """The run that a config file asks for.

    Args:
      path: `.toml`, or `.yaml`/`.yml` with the extra `yaml`; its keys are fields of `PTQConfig`. Relative paths in it
        start at its folder. `np_txt` may also be "module:function", a function without arguments that returns
        calibration data; `preprocess` a preset or a table of the fields of `Preprocess`, or one of either per input.

    Raises:
      ConfigError: not readable, an unknown option (with a suggestion), or an impossible value.
    """
    options = read_options(path)
    try:
        return PTQConfig(**options)
    except ConfigError as e:
        raise ConfigError(e.what, where=f"{path}, {e.where}", fix=e.fix) from e


def read_options(path: str | Path) -> dict[str, Any]:
    """The fields of `PTQConfig` that a file gives, with paths as seen from the current folder.

    Raises:
      ConfigError: not readable, or an unknown option (with a suggestion).
    """
    return understood(read_table(path), Path(path).parent, where=str(path))


def read_qat_options(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """`read_options` of a file that may also have a table `qat`: the fields of `PTQConfig`, and those of `QATConfig`.

    Raises:
      ConfigError: not readable, an unknown option of `PTQConfig` (with a suggestion), or `qat` is no table.
    """
    table = read_table(path)
    qat = table.pop(QAT_TABLE, {})
    if not isinstance(qat, dict):
        raise ConfigError("qat is no table", where=str(path), fix="write a line [qat] above its options")
    return understood(table, Path(path).parent, where=str(path)), qat


def understood(table: Mapping[str, Any], folder: Path, *, where: str) -> dict[str, Any]:
    """A table of options of a file in that folder, as fields of `PTQConfig`.

    Raises:
      ConfigError: an unknown option (with a suggestion), or an impossible preprocessing.
    """
    check_names(table, known_options(), where=where)
    options = dict(table)
    for name in PATHS:
        if isinstance(value := options.get(name), str) and not is_no_path(name, value):
            options[name] = from_here(folder, value)
    if "preprocess" in options:
        options["preprocess"] = _preprocess(options["preprocess"], where)
    return options


def read_table(path: str | Path) -> dict[str, Any]:
    """The content of a TOML or YAML file: option -> value, with nothing looked into.

    Raises:
      ConfigError: not readable, or no table.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        held = _parsed_yaml(text, path) if path.suffix.lower() in (".yaml", ".yml") else tomllib.loads(text)
    except OSError as e:
        raise ConfigError(f"cannot read the config file: {e.strerror}", where=str(path), fix="check the path") from e
    except UnicodeDecodeError as e:
        raise ConfigError("the config file is no text", where=str(path), fix="give a TOML or YAML file") from e
    except tomllib.TOMLDecodeError as e:
        fix = 'write it like platform = "720"; a YAML file needs the suffix .yaml'
        raise ConfigError(f"the config file is no valid TOML: {e}", where=str(path), fix=fix) from e
    if not isinstance(held, dict):
        raise ConfigError("the config file holds no options", where=str(path), fix="write lines like platform: 720")
    return held


def config_text(config: PTQConfig, folder: Path, *, qat: Mapping[str, Any] | None = None) -> str:
    """The config as a TOML file that repeats the run.

    Args:
      config: all options that are not None are written; a path that was relative is relative to the folder.
      folder: where the file will lie; it is the output folder of the repetition.
      qat: options of its fine-tuning, if it has one, as plain data.
    """
    table, lost = {}, []
    for f in fields(config):
        value = getattr(config, f.name)
        if f.name == "p_output":
            table[f.name] = "."
        elif value is not None:
            plain = _plain(f.name, value, folder)
            (lost.append(f.name) if plain is None else table.__setitem__(f.name, plain))
    in_python = {k: str(v).strip("<>") for k, v in (qat or {}).items() if str(v).startswith("<")}
    if qat is not None:
        table[QAT_TABLE] = {k: v for k, v in qat.items() if v is not None and k not in in_python}
    head = [
        f"# A run of knerex_jax {_version()}. Repeat it: knerex {'ptq' if qat is None else 'qat'} --config {RUN_FILE}",
        "# Relative paths start at the folder of this file; options of the command line come first.",
        *(_lost_line(name, getattr(config, name)) for name in lost),
        *(
            f"# {name} of the fine-tuning was given as a Python {kind}, which no file can hold: repeat it with run_qat."
            for name, kind in in_python.items()
        ),
    ]
    return "\n".join(head) + "\n\n" + tomli_w.dumps(table)


def _lost_line(name: str, value: Any) -> str:
    option = f"--{name.replace('_', '-')}"
    return f"# {name} was given as a Python {type(value).__name__}, which no file can hold: give {option} to repeat it."


def _plain(name: str, value: Any, folder: Path) -> Any:
    """A value as TOML has it; None where it has none."""
    if name in PATHS and isinstance(value, str | Path):
        return str(value) if is_no_path(name, str(value)) else from_there(folder, value)
    if name == "np_txt":
        return None
    if isinstance(value, Preprocess):
        default = asdict(Preprocess())
        return {
            k: list(v) if isinstance(v, tuple) else v for k, v in asdict(value).items() if v != default[k]
        } or "none"
    if isinstance(value, Mapping):
        inner = {str(k): _plain("", v, folder) for k, v in value.items()}
        return None if None in inner.values() else inner
    if isinstance(value, list | tuple):
        return [_plain("", v, folder) for v in value]
    return value if isinstance(value, str | int | float | bool) else None


def is_no_path(name: str, value: str) -> bool:
    """JSON text, or the name of a Python function."""
    return value.lstrip().startswith("{") if name == "quan_config" else is_function_name(value)


def from_here(folder: Path, value: str) -> str:
    """A path in a file of that folder, as the current folder sees it; what was absolute stays so."""
    inside = Path(value).expanduser()
    return str(inside) if inside.is_absolute() else os.path.relpath(folder / inside)


def from_there(folder: Path, value: str | Path) -> str:
    """A path of the current folder, as that folder sees it; what was absolute stays so."""
    here = Path(value).expanduser()
    return str(here) if here.is_absolute() else Path(os.path.relpath(here, folder)).as_posix()


def _preprocess(value: Any, where: str) -> Any:
    """A preset, a table of the fields of `Preprocess`, or either per input."""
    if not isinstance(value, dict):
        return value
    names = [f.name for f in fields(Preprocess)]
    if not set(names).intersection(value) and all(isinstance(v, str | dict) for v in value.values()):
        return {name: _preprocess(v, where) if isinstance(v, dict) else v for name, v in value.items()}
    check_names(value, names, where=f"{where}, preprocess")
    return Preprocess(**{k: tuple(v) if isinstance(v, list) else v for k, v in value.items()})


def _parsed_yaml(text: str, path: Path) -> Any:
    try:
        import yaml  # pyright: ignore[reportMissingModuleSource]
    except ImportError as e:
        fix = 'pip install "knerex-jax[yaml]", or write the file as TOML'
        raise ConfigError("reading YAML needs PyYAML, which is not installed", where=str(path), fix=fix) from e
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as e:
        said = " ".join(str(e).split())
        raise ConfigError(f"the config file is no valid YAML: {said}", where=str(path), fix="correct it") from e


def _version() -> str:
    try:
        return version("knerex-jax")
    except PackageNotFoundError:
        return ""
