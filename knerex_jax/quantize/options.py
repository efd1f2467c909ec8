"""Values of single options: checked, and brought to one spelling."""

import difflib
from typing import Any

from knerex_jax.errors import ConfigError
from knerex_jax.quantize.mixing import MIXES

_WIDTHS = {
    "int4": "int4",
    "4": "int4",
    "int8": "int8",
    "8": "int8",
    "int16": "int16",
    "15": "int16",
    "16": "int16",
}


def one_of(option: str, value: Any, allowed: Any) -> Any:
    """The value, or a ConfigError that lists what is allowed."""
    if value not in allowed:
        close = difflib.get_close_matches(str(value), [str(a) for a in allowed], n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(
            f"{value!r} is not a value of {option}", where=f"{option}={value!r}",
            fix=f"{hint}use one of {', '.join(map(str, allowed))}",
        )  # fmt: skip
    return value


def width(option: str, value: str) -> str:
    """A width by its one name, or a mixed mode; only weights can have 4 bits."""
    mixes = MIXES if option in ("datapath_bitwidth_mode", "weight_bitwidth_mode") else ()
    if one_of(option, value, (*_WIDTHS, *mixes)) in mixes:
        return value
    width = _WIDTHS[value]
    if width == "int4" and option != "weight_bitwidth_mode":
        raise ConfigError("data cannot have 4 bits", where=f"{option}='int4'", fix="use int8 or int16")
    return width


def in_range(option: str, value: Any, low: float, high: float | None) -> None:
    """Raises a ConfigError unless the value is a number in that span; `high` None: no end."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or value < low
        or (high is not None and value > high)
    ):
        span = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ConfigError(f"{option} has to be a number {span}", where=f"{option}={value!r}", fix="correct the value")
