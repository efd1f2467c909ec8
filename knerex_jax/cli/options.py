"""Options of the command line that are fields of `PTQConfig`, and what was given of them."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from typing import Any

import click

from knerex_jax.data.shapes import parse_shape as parse_shape
from knerex_jax.quantize.config import PTQConfig

_FLOATS = ("weight_bandwidth", "dma_bandwidth", "percentage_16b", "headroom_16b", "output_headroom", "max_ms", "max_mb")
"""Options of numbers without a default."""


_COUNTS = ("guard_bits", "devices")
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


def config_options(names: Collection[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """One option per field of PTQConfig, with its name, default and help."""
    return lambda command: _with_options(command, names)


def _with_options(command: Callable[..., Any], wanted: Collection[str]) -> Callable[..., Any]:
    for f in reversed([f for f in fields(PTQConfig) if f.name in wanted]):
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
