"""The search of ranges: for every tensor and channel the clip with the least squared error, from counted magnitudes.

Source: section 6 of the arithmetic contract (mmse). The cost of a clip t is

    sum over |x| <= t of (x - Q_t(x))**2  +  outlier_factor**2 * sum over |x| > t of (|x| - t)**2

with Q_t the symmetric quantizer of step t / qmax. Candidates are the bins that hold the largest magnitudes. Both sums
are linear in the counts, and the error of a bin at a candidate depends on nothing but their ratio, so the search is one
matrix product of counts and a table of errors, which serves every setting. Values count as spread evenly over their
bin, for which the error has a closed form; that makes bins wider than a step unproblematic. What is not counted lies
under half a step of any candidate that could win: it costs its own square whatever the choice (exact zeros cost
nothing).
"""

from collections.abc import Iterable, Sequence
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
_CHUNK = 256
"""Octaves of candidates per call of the compiled program."""

_BATCH = 2048
"""Octaves from which on a batch of tensors is searched: bounds the memory, and many small tensors share their calls."""

_CURVE_OCTAVES, _CURVE_STEP = 4, 32
"""What is shown of a search: the octaves under the largest magnitude, and every 32nd of their candidates."""


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


def search(states: Iterable[TensorState], settings: Sequence[Setting]) -> list[list[Clips]]:
    """The best clips of tensors and of all their channels, for every tensor one per setting."""
    found: list[list[Clips]] = []
    held: list[_Searched] = []
    for state in states:
        held.append(_searched(state, settings))
        if sum(len(s.rows) for s in held) >= _BATCH:
            found += _best_clips(held, settings)
            held = []
    return found + (_best_clips(held, settings) if held else [])


@dataclass(frozen=True)
class _Searched:
    """One tensor: its channels as groups, and all of it as the last one.

    Attributes:
      largest: float32 [G], exact.
      top: int64 [G], bin of `largest`, as coarse as what was counted; like `lowest` with a candidate's mantissa bits.
      lowest: int64 [S, G], bin of the lowest candidate.
      final: [S], whether all candidates were counted.
      keys: int64 [P], octaves with candidates: `group * 256 + octave`, sorted.
      rows: float32 [P, COLUMNS], their `features`.
    """

    largest: np.ndarray
    top: np.ndarray
    lowest: np.ndarray
    final: Sequence[bool]
    keys: np.ndarray
    rows: np.ndarray


def _searched(state: TensorState, settings: Sequence[Setting]) -> _Searched:
    low = thresholds(state, [s.percentile for s in settings])
    lowest = np.stack([np.append(each.channels, each.layer) for each in low])
    channels = by_channel(state)
    layer = in_all(channels, state.size)
    keys, rows = [], []
    for first, groups in ((0, channels), (state.channels, layer)):
        least = lowest.min(0)[first:] >> groups.bits
        own = groups.keys[(groups.keys & 255) >= least[groups.keys >> 8]]
        keys.append(own + first * 256)
        rows.append(features(groups, own))
    largest, coarse = np.append(channels.largest, layer.largest), BITS - state.bits
    top = code_of(largest, state.bits) << coarse
    return _Searched(
        largest, top, lowest << coarse, [each.final for each in low], np.concatenate(keys), np.concatenate(rows)
    )


def _best_clips(tensors: Sequence[_Searched], settings: Sequence[Setting]) -> list[list[Clips]]:
    """The clips of some tensors, whose groups are searched side by side."""
    firsts = np.cumsum([0] + [len(t.largest) for t in tensors])
    keys = np.concatenate([t.keys + first * 256 for t, first in zip(tensors, firsts, strict=False)])
    rows = np.concatenate([t.rows for t in tensors])
    largest, top = (np.concatenate([getattr(t, name) for t in tensors]) for name in ("largest", "top"))
    lowest = np.concatenate([t.lowest for t in tensors], axis=1)
    # Candidates: bins with values, from the lowest of any setting upwards.
    row, place = np.nonzero(rows[:, MOMENTS : MOMENTS + _CANDIDATES])
    code = ((keys[row] & 255) << BITS) + place
    allowed = code >= lowest.min(0)[keys[row] >> 8]
    row, place, code = row[allowed], place[allowed], code[allowed]
    group = keys[row] >> 8
    inside, outside = _sums(rows, row, place)
    clips = np.broadcast_to(largest, (len(settings), len(SEARCHED), len(largest))).copy()
    for setting, low, clip in zip(settings, lowest, clips, strict=True):
        with np.errstate(over="ignore"):
            cost = (inside + float(np.float32(setting.outlier_factor**2)) * outside).astype(np.float32)
        # Back from units of 2**octave; float64 holds the square of any float32.
        cost = np.where(code >= low[group], cost * 4.0 ** ((code >> BITS) - 127.0), np.inf)
        which, best = _least(cost, group, code)
        inner = (best >= 0) & (best < top[which])
        clip[:, which] = np.where(inner, middle(np.maximum(best, 1 << BITS), BITS), largest[which])
    return [
        [Clips(clip[:, end - 1], clip[:, first : end - 1], final) for clip, final in zip(clips, t.final, strict=True)]
        for t, first, end in zip(tensors, firsts, firsts[1:], strict=False)
    ]


@dataclass(frozen=True)
class ErrorCurve:
    """What clipping all of a tensor at some magnitude costs.

    Attributes:
      clips: float64 [N], rising; up to the largest magnitude.
      errors: float64 [W, N], the cost by width (`SEARCHED`): sums over all values.
      signal: sum of squares of all values.
    """

    clips: np.ndarray
    errors: np.ndarray
    signal: float


def error_curves(states: Sequence[TensorState], outlier_factor: float) -> list[ErrorCurve]:
    """The cost of a few candidates of every tensor, as a search with this `outlier_factor` sees them."""
    groups = [in_all(by_channel(state), state.size) for state in states]
    keys = [np.unique(g.keys)[-_CURVE_OCTAVES:] for g in groups]
    rows = [features(g, k) for g, k in zip(groups, keys, strict=True)]
    places = np.arange(_CURVE_STEP // 2, _CANDIDATES, _CURVE_STEP)
    row, place = (v.ravel() for v in np.meshgrid(np.arange(sum(map(len, keys))), places, indexing="ij"))
    if not len(row):
        return []
    inside, outside = _sums(np.concatenate(rows), row, place)
    octave = (np.concatenate(keys) & 255)[row]
    cost = (inside.astype(np.float64) + outlier_factor**2 * outside) * 4.0 ** (octave - 127.0)
    clips = middle((octave << BITS) + place, BITS).astype(np.float64)
    found, start = [], 0
    for g, k in zip(groups, keys, strict=True):
        own = slice(start, start := start + len(k) * len(places))
        kept = clips[own] <= float(g.largest[0])
        found.append(ErrorCurve(clips[own][kept], cost[:, own][:, kept], _power(g)))
    return found


def _power(groups: Magnitudes) -> float:
    """Sum of squares of what is counted finely."""
    size = middle(((groups.keys & 255)[:, None] << groups.bits) + np.arange(1 << groups.bits), groups.bits)
    return float(np.sum(np.square(size, dtype=np.float64) * groups.counts))


def _least(cost: np.ndarray, group: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best candidate of each group that has any.

    Args:
      cost: [W, N], infinite for what is none.
      group: int64 [N], sorted.
      code: int64 [N], bin of each candidate.

    Returns:
      int64 [G] groups, and int64 [W, G] bins of least cost: of the highest octave with it the lowest; negative without
      a candidate.
    """
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    least = np.minimum.reduceat(cost, starts, axis=1)
    wins = (cost == np.repeat(least, np.diff(starts, append=len(group)), axis=1)) & np.isfinite(cost)
    rank = code ^ (_CANDIDATES - 1)
    return group[starts], np.maximum.reduceat(np.where(wins, rank, -1), starts, axis=1) ^ (_CANDIDATES - 1)


def _sums(rows: np.ndarray, row: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sums of some candidates.

    Args:
      rows: float32 [P, COLUMNS], from `features`.
      row: int64 [N], sorted: the octave of each candidate.
      place: int64 [N], its bin in the octave.

    Returns:
      float32 [W, N], errors of what is kept, and float32 [N], of what is clipped.
    """
    kept, clipped = jnp.asarray(_kept_errors()), jnp.asarray(_clipped_errors())
    inside, outside = np.empty((len(SEARCHED), len(row)), np.float32), np.empty(len(row), np.float32)
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        part = np.pad(part, ((0, _CHUNK - len(part)), (0, 0))) if len(part) < _CHUNK else part
        own = slice(*np.searchsorted(row, (start, start + _CHUNK)))
        below, above = (np.asarray(v) for v in _every_sum(kept, clipped, part))
        inside[:, own] = below[:, row[own] - start, place[own]]
        outside[own] = above[row[own] - start, place[own]]
    return inside, outside


@jax.jit
def _every_sum(kept: Array, clipped: Array, counts: Array) -> tuple[Array, Array]:
    """Both sums for every bin of some octaves as candidate.

    Args:
      kept: [W, COLUMNS - MOMENTS, K], error of a kept value of each bin.
      clipped: [MOMENTS + K, K], error of a clipped one, and of the moments above.
      counts: [P, COLUMNS], from `features`.

    Returns:
      float32 [W, P, K] and float32 [P, K].
    """
    # Full float32 also where a matrix unit would round its operands.
    inside = jnp.einsum("pb,wbk->wpk", counts[:, MOMENTS:], kept, precision=lax.Precision.HIGHEST)
    return inside, jnp.dot(counts[:, : MOMENTS + _CANDIDATES], clipped, precision=lax.Precision.HIGHEST)


@cache
def _kept_errors() -> np.ndarray:
    """Mean squared error of the part of each bin below each candidate, float32 [2, COLUMNS - MOMENTS, K]."""
    clip = _candidates()
    tables = []
    for bits in SEARCHED:
        step = clip / data_limits(bits)[1]
        below = []
        for edges in _bin_edges():
            # Neighbours share an edge.
            error = _squared_error(np.minimum(edges, clip), step)
            below.append((error[1:] - error[:-1]) / (edges[1:] - edges[:-1]))
        tables.append(np.concatenate(below))
    return np.stack(tables).astype(np.float32)


@cache
def _clipped_errors() -> np.ndarray:
    """Mean squared excess of each bin of the octave over each candidate, after that of the moments above it."""
    clip, edges = _candidates(), _bin_edges()[0]
    beyond = np.maximum(edges - clip, 0) ** 3
    above = np.stack([(2 - clip) ** 2, 2 * (2 - clip), np.ones_like(clip)])
    return np.concatenate([above, (beyond[1:] - beyond[:-1]) / (3 * (edges[1:] - edges[:-1]))]).astype(np.float32)


def _bin_edges() -> list[np.ndarray]:
    """Edges of the bins of every octave from the candidates' own downwards, [width + 1, 1], in units of that octave."""
    return [np.ldexp(1 + np.arange(width + 1) / width, -depth)[:, None] for depth, width in enumerate(WIDTHS)]


def _candidates() -> np.ndarray:
    return 1 + (np.arange(_CANDIDATES) + 0.5) / _CANDIDATES


def _squared_error(x: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Integral from 0 to x of the squared distance to the nearest multiple of `step`."""
    code = np.rint(x / step)
    rest = x / step - code
    return step**3 * (code / 12 + rest**3 / 3)
