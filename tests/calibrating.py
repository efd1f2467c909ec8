"""Ranges of plain functions of a sample, in one call."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from knerex_jax.calibrate.measured import RangeRule, ranges_of
from knerex_jax.calibrate.ranges import Ranges
from knerex_jax.calibrate.reading import Measurement
from knerex_jax.calibrate.run import measure
from knerex_jax.data.sources import Source
from knerex_jax.graph.ir import TensorType


def calibrate_all(
    fn: Callable[..., Any],
    params: Any,
    source: Source,
    observed: Mapping[str, int | None],
    types: Mapping[str, TensorType],
    rules: Sequence[RangeRule],
    *,
    outputs: Collection[str] = (),
    **options: Any,
) -> list[Ranges]:
    """The ranges of all tensors by every rule; `options` are those of `Measurement`."""
    measurement = Measurement(fn, params, observed, types, **options)
    return ranges_of(measure(measurement, source, rules, outputs=outputs), rules)


def calibrate(
    fn: Callable[..., Any],
    params: Any,
    source: Source,
    observed: Mapping[str, int | None],
    types: Mapping[str, TensorType],
    *,
    pct: float,
    pct_wide: float,
    exact: Collection[str] = (),
    **options: Any,
) -> Ranges:
    """Percentage ranges of all tensors."""
    rule = RangeRule(pct=pct, pct_wide=pct_wide)
    return calibrate_all(fn, params, source, observed, types, [rule], outputs=exact, **options)[0]
