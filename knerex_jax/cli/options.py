"""Options of the command line that are fields of `PTQConfig`, and what was given of them."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from typing import Any

import click

from knerex_jax.data.shapes import parse_shape as parse_shape
from knerex_jax.errors import ConfigError
from knerex_jax.qat.config import QATConfig, known_qat_options
from knerex_jax.quantize.config import PTQConfig

CONFIG = click.option(
    "--config", "config_file", type=click.Path(),
    help="TOML or YAML file of these options; what the command line says goes before it.",
)  # fmt: skip
INPUT_SHAPE = click.option(
    "--input-shape", multiple=True, metavar="NAME:1,3,224,224", help="Shape of a dynamic input; more than once."
)
PREPROCESS = click.option("--preprocess", help="Preset for images: kneron, tensorflow, yolo, pytorch, caffe or none.")
LAYOUT = click.option("--layout", type=click.Choice(["NCHW", "NHWC"]), help="Layout of the data where it is ambiguous.")
MODEL_ID = click.option("--model-id", type=int, help="Which model of a nef.")
KEY_FILE = click.option("--key-file", type=click.Path(), help="Key of an encrypted nef; else KNEREX_NEF_KEY.")
"""Options of several commands."""

_FLOATS = (
    "weight_bandwidth", "dma_bandwidth", "percentage_16b", "headroom_16b", "output_headroom", "max_ms", "max_mb",
    "learning_rate",
)  # fmt: skip
"""Options of numbers without a default."""


_COUNTS = ("guard_bits", "devices", "train_devices")
"""Options of whole numbers without a default."""

_PATHS = ("p_onnx", "np_txt", "p_output", "ip_config", "quan_config", "counts")
"""Options that a shell completes with files."""


def _option_type(name: str, default: Any) -> Any:
    if name in _PATHS:
        return click.Path()
    if isinstance(default, bool):
        return click.BOOL
    if isinstance(default, int) or name in _COUNTS:
        return click.INT
    if isinstance(default, float) or name in _FLOATS:
        return click.FLOAT
    return click.STRING


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """MODEL, --config, and one option per field of PTQConfig; `given_run` reads them."""
    add_model = click.argument("model", required=False, type=click.Path())
    return add_model(CONFIG(_with_options(command, PTQConfig, [f.name for f in fields(PTQConfig)])))


def given_run(model: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of PTQConfig (and of other configs) that the command line gives.

    Raises:
      ConfigError: MODEL and --p-onnx name different ones.
    """
    given = given_options(options)
    if model is not None and given.setdefault("p_onnx", model) != model:
        what = f"two models: {model} and {given['p_onnx']}"
        raise ConfigError(what, where="MODEL, --p-onnx", fix="give one of them")
    return given


def config_options(names: Collection[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """One option per field of PTQConfig, with its name, default and help."""
    return lambda command: _with_options(command, PTQConfig, names)


def qat_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """One option per field of QATConfig that a command line can hold."""
    return _with_options(command, QATConfig, set(known_qat_options()) - {"loss", "labels"})


def _with_options(command: Callable[..., Any], config: type[Any], wanted: Collection[str]) -> Callable[..., Any]:
    for f in reversed([f for f in fields(config) if f.name in wanted]):
        text, spelled = f.metadata["help"], f.name.replace("_", "-")
        if f.name == "input_shape":
            option = click.option("--input-shape", "input_shape", multiple=True, metavar="NAME:1,3,224,224", help=text)
        else:
            names = dict.fromkeys((f"--{spelled}", f"--{f.name}"))
            option = click.option(
                *names, f.name, type=_option_type(f.name, f.default), default=None,
                help=f"{text}. [default: {f.default}]" if f.default is not None else f"{text}.",
            )  # fmt: skip
        command = option(command)
    return command


def given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, as fields of PTQConfig."""
    given = {k: v for k, v in options.items() if v is not None and v != ()}
    if "input_shape" in given:
        given["input_shape"] = dict(parse_shape(s) for s in given["input_shape"])
    return given
