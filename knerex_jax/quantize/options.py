"""Values of single options: checked, and brought to one spelling."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, get_args

from knerex_jax.errors import ConfigError
from knerex_jax.quantize.request import MIXES
from knerex_jax.suggest import nearest

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
        fix = f"{nearest(value, allowed, '')} use one of {', '.join(map(str, allowed))}".lstrip()
        raise ConfigError(f"{value!r} is not a value of {option}", where=f"{option}={value!r}", fix=fix)
    return value


def width(option: str, value: str) -> str:
    """A width by its one name, or a mixed mode; only weights can have 4 bits."""
    mixes = MIXES if option in ("datapath_bitwidth_mode", "weight_bitwidth_mode") else ()
    if _WIDTHS.get(value) == "int4" and option != "weight_bitwidth_mode":
        raise ConfigError("data cannot have 4 bits", where=f"{option}={value!r}", fix="use int8 or int16")
    names = [w for w, name in _WIDTHS.items() if name != "int4" or option == "weight_bitwidth_mode"]
    return value if one_of(option, value, (*names, *mixes)) in mixes else _WIDTHS[value]


def in_range(option: str, value: Any, low: float, high: float | None) -> None:
    """Raises a ConfigError unless the value is a number in that span; `high` None: no end."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not value >= low  # so that NaN is refused, too
        or (high is not None and value > high)
    ):
        span = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ConfigError(f"{option} has to be a number {span}", where=f"{option}={value!r}", fix="correct the value")


def check_names(given: Iterable[str], known: Iterable[str], *, where: str) -> None:
    """Raises a ConfigError at the first name that is not known, with a suggestion."""
    known = list(known)
    for name in given:
        if name not in known:
            fix = nearest(name, known, f"the options are {', '.join(known)}", count=1)
            raise ConfigError(f"unknown option {name!r}", where=where, fix=fix)


def check_kinds(config: Any) -> None:
    """Raises a ConfigError where a field for text or for true and false holds something else; numbers have ranges."""
    for f in fields(config):
        kinds = get_args(f.type) or (f.type,)
        value = getattr(config, f.name)
        if {bool, str}.intersection(kinds) and not isinstance(value, kinds):
            wanted = "true or false" if bool in kinds else "text"
            raise ConfigError(f"{f.name} has to be {wanted}", where=f"{f.name}={value!r}", fix="correct the value")


def names_of(option: str, value: Any) -> tuple[str, ...] | None:
    """Names in their one form: a list of them, or text with commas between them."""
    if value is None:
        return None
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(n, str) and n.strip() for n in names):
        raise ConfigError(
            f"{option} has to be a list of names", where=f"{option}={value!r}", fix="write it like first,second"
        )
    return tuple(n.strip() for n in names)


def shapes_by_input(value: Any) -> dict[str, tuple[int, ...]] | None:
    """An `input_shape` in its one form: name -> dimensions; 0 and -1 leave one open."""
    if value is None:
        return None
    try:
        assert isinstance(value, Mapping)
        shapes = {str(name): tuple(shape) for name, shape in value.items()}
        assert all(isinstance(d, int) and not isinstance(d, bool) and d >= -1 for s in shapes.values() for d in s)
    except (AssertionError, TypeError):
        raise ConfigError(
            "input_shape has to be a table of input name -> whole numbers", where=f"input_shape={value!r}",
            fix='write it like {"input": (1, 3, 224, 224)}',
        ) from None  # fmt: skip
    return shapes
