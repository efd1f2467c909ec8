"""What a batch adds to the statistics of a tensor: pure functions on small states, one per observer.

An observer sees a tensor as rows of channels and folds them into its state; states add up over batches and devices.
Rows are taken in pieces that stay in the cache, so that an observer costs one sweep over memory however many sums it
keeps. Measured on MobileNetV2 (experiments, calibration cost): extremes 1.4 times the float forward, histogram 2.1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

MANTISSA = 23
"""Mantissa bits of float32: `bits >> MANTISSA` is the biased exponent, here called the octave (1 to 254)."""


TAIL_BITS = 3
"""Mantissa bits of the coarse bins under a window."""

_SIGN, _INFINITY = -(2**31), 0x7F800000


class Observer(NamedTuple):
    """A pair of pure functions.

    Attributes:
      init: number of channels -> state (a NamedTuple of arrays, channels last).
      update: (state, rows float32 [n, channels], counted bool [n, 1]) -> state. Rows that do not count repeat others
        that do.
    """

    init: Callable[..., Any]
    update: Callable[[Any, Array, Array], Any]


class Extremes(NamedTuple):
    """Exact range per channel.

    Attributes:
      low: float32 [C], the smallest value.
      high: float32 [C], the largest.
      poison: float32 [C], 1 as soon as a NaN or an infinity came by, else 0.
    """

    low: Array
    high: Array
    poison: Array


def _ordered(bits: Any) -> Any:
    """Integers in the order of the float32 of these bits, NaN outermost; applied again it gives the bits back.

    Extremes of integers take a CPU 0.4 ns a value. Those of floats, whose rules for NaN are a chain of operations, take
    1.4 together with a look for infinities and NaN, which its reductions drop (seen on jaxlib 0.10.2 and 0.12.0).
    """
    return bits ^ ((bits >> 31) & ~_SIGN)


@lru_cache(maxsize=1)
def extremes() -> Observer:
    """Minimum and maximum of every channel, and whether all values were finite."""

    def init(channels: int) -> Extremes:
        far = jnp.full(channels, jnp.inf, jnp.float32)
        return Extremes(far, -far, jnp.zeros(channels, jnp.float32))

    def update(state: Extremes, rows: Array, counted: Array) -> Extremes:
        keys = _ordered(lax.bitcast_convert_type(rows, jnp.int32))
        least, most = keys.min(0), keys.max(0)
        low, high = (lax.bitcast_convert_type(_ordered(k), jnp.float32) for k in (least, most))
        bad = (least <= _ordered(_INFINITY | _SIGN)) | (most >= _INFINITY)
        return Extremes(
            jnp.minimum(state.low, low),
            jnp.maximum(state.high, high),
            jnp.maximum(state.poison, bad.astype(jnp.float32)),
        )

    return Observer(init, update)


@dataclass(frozen=True)
class Grid:
    """Bins of a histogram: `2**bits` per octave, linear inside an octave, over a window of octaves.

    Attributes:
      bits: mantissa bits kept; the middle of a bin is within `2**-(bits + 1)` of every value in it, relatively.
      octaves: width of the window.
      signed: negative values get bins of their own; else there must be none.
      tail: octaves under the window that are counted coarsely, `2**TAIL_BITS` bins each, both signs together.
    """

    bits: int = 9
    octaves: int = 6
    signed: bool = True
    tail: int = 0

    @property
    def size(self) -> int:
        """Bins of one sign, without the two outer ones."""
        return self.octaves << self.bits

    @property
    def rows(self) -> int:
        """Bins in all: per sign one for what is not counted, `size` inside, one above; then the tail."""
        return (self.size + 2) * (2 if self.signed else 1) + (self.tail << TAIL_BITS)

    def tail_base(self, base: Any) -> Any:
        """Lowest octave of the tail under a window's lowest octave; octave 0 holds zeros and is never counted."""
        return (base - self.tail).clip(1)


class Histogram(NamedTuple):
    """Counts of magnitudes inside a window of octaves per channel, and what lies below it.

    Attributes:
      counts: int32 [rows * C], bins first, then channels; the caller empties it before 2**31 values of a channel.
      base: int32 [C], the lowest octave of the window.
      below: float32 [signs, C], the largest magnitude under the window, positive values first.
    """

    counts: Array
    base: Array
    below: Array


@lru_cache(maxsize=64)
def histogram(grid: Grid) -> Observer:
    """Histogram of every channel over `grid`, one window per channel; `init` takes the windows' lowest octaves [C]."""
    signs, shift = (2 if grid.signed else 1), MANTISSA - grid.bits

    def init(base: Array) -> Histogram:
        channels = base.shape[0]
        counts, below = jnp.zeros(grid.rows * channels, jnp.int32), jnp.zeros((signs, channels), jnp.float32)
        return Histogram(counts, jnp.asarray(base), below)

    def update(state: Histogram, rows: Array, counted: Array) -> Histogram:
        channels = rows.shape[1]
        bits = lax.bitcast_convert_type(rows, jnp.int32)
        place = ((bits & 0x7FFFFFFF) >> shift) - (state.base << grid.bits)
        # Every value goes to some bin, also those outside the window: skipping them costs more in mispredicted
        # branches than counting them.
        bins = jnp.where(counted, jnp.clip(place + 1, 0, grid.size + 1), 0)
        if grid.signed:
            bins = jnp.where(bits < 0, bins + (grid.size + 2), bins)
        if grid.tail:
            coarse = ((bits & 0x7FFFFFFF) >> (MANTISSA - TAIL_BITS)) - (grid.tail_base(state.base) << TAIL_BITS)
            in_tail = (place < 0) & (coarse >= 0) & counted
            bins = jnp.where(in_tail, coarse + signs * (grid.size + 2), bins)
        index = bins * channels + jnp.arange(channels, dtype=jnp.int32)
        small = jnp.where(place < 0, rows, 0.0)
        sides = [small.max(0), -small.min(0)][:signs]
        return Histogram(_count(state.counts, index), state.base, jnp.maximum(state.below, jnp.stack(sides)))

    return Observer(init, update)


_MERGED = {Extremes: ("min", "max", "max"), Histogram: ("sum", "max", "max")}
"""How the fields of states of different samples make one state; windows are the same in all of them."""


def merge(states: Any, numbers: Any = jnp) -> Any:
    """One state of several, which stand behind each other on a leading axis; any order of them gives the same.

    Args:
      states: of one observer.
      numbers: the library that computes: jax.numpy, or numpy, whose sums are int64.
    """
    kinds = _MERGED[type(states)]
    return type(states)(*(getattr(numbers, kind)(a, axis=0) for kind, a in zip(kinds, states, strict=True)))


@partial(jax.jit, static_argnums=(0, 3, 5))
def fold(observers: tuple[Observer, ...], states: Any, x: Array, axis: int | None, valid: Array, piece: int) -> Any:
    """Shows a batch of one tensor to its observers.

    A function of its own inside the step: traced once for all tensors of one shape and equal observers.

    Args:
      observers: a few; they share the sweep.
      states: one state per observer.
      x: float32 [b, *shape of the tensor].
      axis: channel axis in `shape`; None: no channels.
      valid: int32 [], so many leading samples count; the others must repeat one of them.
      piece: elements to take at a time; 2**18 keeps a CPU's cache warm, a GPU wants all at once.
    """
    rows = x.astype(jnp.float32).reshape(-1, 1) if axis is None else _channels_last(x.astype(jnp.float32), axis + 1)
    total, channels = rows.shape
    pieces = divide(total, max(piece // channels, 1))
    per_piece = total // pieces
    limit = valid * (total // x.shape[0])

    def body(i: Array | int, states: Any) -> Any:
        part = lax.dynamic_slice_in_dim(rows, i * per_piece, per_piece)
        counted = (jnp.arange(per_piece, dtype=jnp.int32) + i * per_piece < limit)[:, None]
        return tuple(o.update(s, part, counted) for o, s in zip(observers, states, strict=True))

    return body(0, tuple(states)) if pieces == 1 else lax.fori_loop(0, pieces, body, tuple(states))


def divide(total: int, most: int) -> int:
    """Number of equal pieces of `total` rows.

    The fewest of at most `most` rows each; where none up to four times as many divides `total`, one.
    """
    fewest = -(-total // most)
    return next((k for k in range(fewest, min(4 * fewest, total) + 1) if total % k == 0), 1)


def _channels_last(x: Array, axis: int) -> Array:
    return jnp.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])


def _count(counts: Array, index: Array) -> Array:
    """counts[index] += 1 for every index of an int32 array, repeats included."""
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=(), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0,)
    )
    ones = jnp.ones(index.size, counts.dtype)
    # Indices are made as they stand and only then read in one row: fused with the reshape, XLA:CPU finds row and
    # column of each by a division and vectorises nothing (3.7 instead of 1.4 ns for each).
    index = lax.optimization_barrier(index)
    return lax.scatter_add(counts, index.reshape(-1, 1), ones, numbers, mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS)
