"""The search of ranges: for every tensor and channel the clip with the least squared error, from counted magnitudes.

Source: section 6 of the arithmetic contract (mmse). The cost of a clip t is

    sum over |x| <= t of (x - Q_t(x))**2  +  outlier_factor**2 * sum over |x| > t of (|x| - t)**2

with Q_t the symmetric quantizer of step t / qmax. Candidates are the bins that hold the largest magnitudes. Both sums
are linear in the counts, and the error of a bin at a candidate depends on nothing but their ratio, so the search is one
matrix product of counts and a table of errors. Values count as spread evenly over their bin, for which the error has
a closed form; that makes bins wider than a step unproblematic. What is not counted lies under half a step of any
candidate that could win: it costs its own square whatever the choice (exact zeros cost nothing).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from knerex_jax.calibrate.cuts import thresholds
from knerex_jax.calibrate.magnitudes import BITS, MOMENTS, WIDTHS, Magnitudes, by_channel, features, in_all
from knerex_jax.calibrate.state import TensorState, code_of, middle
from knerex_jax.fixedpoint.qformat import data_limits

SEARCHED = (8, 15)
"""Widths a clip is searched for: those of the narrow and of the wide record."""

_CANDIDATES = 1 << BITS
_CHUNK = 64
"""Octaves of candidates per step of the compiled program: the layer alone takes one to three."""


@dataclass(frozen=True)
class Setting:
    """One search.

    Attributes:
      percentile: share of the largest magnitudes that are candidates; the very largest always is one.
      outlier_factor: clipped errors weigh the square of it.
    """

    percentile: float
    outlier_factor: float


@dataclass(frozen=True)
class Clips:
    """The best clips of one tensor, by width (`SEARCHED`): the middle of a bin, or the exact largest magnitude.

    Attributes:
      layer: float32 [2].
      channels: float32 [2, C].
      final: all candidates were counted; if not, a lower one might be better.
    """

    layer: np.ndarray
    channels: np.ndarray
    final: bool


def search(state: TensorState, settings: Sequence[Setting]) -> list[Clips]:
    """The best clips of a tensor and of all its channels, for every setting."""
    lowest = thresholds(state, [s.percentile for s in settings])
    weights = np.array([s.outlier_factor**2 for s in settings], np.float32)
    channels = by_channel(state)
    best = _best_clips(channels, np.stack([low.channels for low in lowest]), weights)
    layer = _best_clips(in_all(channels), np.array([[low.layer] for low in lowest]), weights)
    return [Clips(y[:, 0], c, low.final) for y, c, low in zip(layer, best, lowest, strict=True)]


def _best_clips(groups: Magnitudes, lowest: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The best clip of every group, float32 [S, 2, G].

    Args:
      groups: G of them.
      lowest: int64 [S, G], bin of the lowest candidate.
      weights: float32 [S], of clipped squares.
    """
    group, octave = groups.keys >> 8, groups.keys & 255
    keys = groups.keys[octave >= (lowest.min(0) >> groups.bits)[group]]
    group, octave = keys >> 8, keys & 255
    first = np.clip((lowest[:, group] << (BITS - groups.bits)) - (octave << BITS), 0, _CANDIDATES)
    cost, place = _scanned(features(groups, keys), first, weights)
    # Back from units of 2**octave; float64 holds the square of any float32.
    cost = cost * 4.0 ** (octave - 127.0)
    clips = np.broadcast_to(groups.largest, (*cost.shape[:2], len(groups.largest))).copy()
    least = np.full(clips.shape, np.inf)
    np.minimum.at(least, (..., group), cost)
    setting, width, pair = np.nonzero((cost == least[..., group]) & np.isfinite(cost))
    code = (octave[pair] << BITS) + place[setting, width, pair]
    top = code_of(groups.largest, BITS)[group[pair]]
    # Octaves rise with the pairs, so that the largest of equal clips comes last.
    inner = code < top if groups.bits == BITS else code >> (BITS - groups.bits) < top >> (BITS - groups.bits)
    clips[setting, width, group[pair]] = np.where(inner, middle(code, BITS), groups.largest[group[pair]])
    return clips


def _scanned(counts: np.ndarray, first: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least cost and its candidate for octaves [P] in chunks of one shape: float64 and int64 [S, 2, P]."""
    kept, clipped, scan = jnp.asarray(_kept_errors()), jnp.asarray(_clipped_errors()), jax.jit(_scan)
    parts = []
    for start in range(0, len(counts), _CHUNK):
        rows, lows = counts[start : start + _CHUNK], first[:, start : start + _CHUNK]
        missing = _CHUNK - len(rows)
        rows, lows = np.pad(rows, ((0, missing), (0, 0))), np.pad(lows, ((0, 0), (0, missing)))
        parts.append((_CHUNK - missing, scan(kept, clipped, weights, rows, lows.astype(np.int32))))
    costs = [np.asarray(cost)[..., :n].astype(np.float64) for n, (cost, _) in parts]
    places = [np.asarray(place)[..., :n].astype(np.int64) for n, (_, place) in parts]
    empty = np.zeros((len(weights), len(SEARCHED), 0))
    return np.concatenate([empty, *costs], axis=2), np.concatenate([empty.astype(np.int64), *places], axis=2)


def _scan(kept: Array, clipped: Array, weights: Array, counts: Array, first: Array) -> tuple[Array, Array]:
    """Cost of every candidate of some octaves, and the best one of each.

    Args:
      kept: [W, COLUMNS - MOMENTS, K], error of a kept value of each bin.
      clipped: [MOMENTS + K, K], error of a clipped one, and of the moments above.
      weights: [S], of clipped errors.
      counts: [P, COLUMNS], from `features`.
      first: int32 [S, P], the lowest candidate; K for none.

    Returns:
      float32 [S, W, P] least cost (infinity without a candidate) and int32 [S, W, P] its place.
    """
    own = counts[:, MOMENTS : MOMENTS + _CANDIDATES]
    # Full float32 also where a matrix unit would round its operands.
    inside = jnp.einsum("pb,wbk->wpk", counts[:, MOMENTS:], kept, precision=lax.Precision.HIGHEST)
    outside = jnp.dot(counts[:, : MOMENTS + _CANDIDATES], clipped, precision=lax.Precision.HIGHEST)

    def one(setting: tuple[Array, Array]) -> tuple[Array, Array]:
        weight, low = setting
        allowed = (own > 0) & (jnp.arange(_CANDIDATES) >= low[:, None])
        cost = jnp.where(allowed, inside + weight * outside, jnp.inf)
        return cost.min(2), cost.argmin(2).astype(jnp.int32)

    return lax.map(one, (weights, first))


@cache
def _kept_errors() -> np.ndarray:
    """Mean squared error of the part of each bin below each candidate, float32 [2, COLUMNS - MOMENTS, K]."""
    low, high = _bins()
    clip = _candidates()
    tables = []
    for bits in SEARCHED:
        step = clip / data_limits(bits)[1]
        below = _squared_error(np.minimum(high, clip), step) - _squared_error(np.minimum(low, clip), step)
        tables.append(below / (high - low))
    return np.stack(tables).astype(np.float32)


@cache
def _clipped_errors() -> np.ndarray:
    """Mean squared excess of each bin of the octave over each candidate, after that of the moments above it."""
    low, high = (edges[:_CANDIDATES] for edges in _bins())
    clip = _candidates()
    excess = np.maximum(high - clip, 0) ** 3 - np.maximum(low - clip, 0) ** 3
    above = np.stack([(2 - clip) ** 2, 2 * (2 - clip), np.ones_like(clip)])
    return np.concatenate([above, excess / (3 * (high - low))]).astype(np.float32)


def _bins() -> tuple[np.ndarray, np.ndarray]:
    """Edges of the bins, [COLUMNS - MOMENTS, 1] each, in units of the octave of the candidates."""
    edges = [np.ldexp(1 + np.arange(width + 1) / width, -depth) for depth, width in enumerate(WIDTHS)]
    return np.concatenate([e[:-1] for e in edges])[:, None], np.concatenate([e[1:] for e in edges])[:, None]


def _candidates() -> np.ndarray:
    return 1 + (np.arange(_CANDIDATES) + 0.5) / _CANDIDATES


def _squared_error(x: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Integral from 0 to x of the squared distance to the nearest multiple of `step`."""
    code = np.rint(x / step)
    rest = x / step - code
    return step**3 * (code / 12 + rest**3 / 3)
