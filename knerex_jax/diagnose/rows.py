"""What an error budget says: losses by node and source, as data and as text."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from knerex_jax.errors import ConfigError

BAD_BELOW_DB = 20.0
"""A tensor whose accumulated SNR is below this counts as bad."""

_RESPONSIBLE = 0.5
"""A node is responsible for a bad tensor if it alone makes at least this share of its noise."""


@dataclass(frozen=True)
class Loss:
    """Noise power that one node adds to one output, as a share of the output's signal power, by source.

    Attributes:
      clip: values outside the range of the node's result.
      round: rounding of the result to codes.
      weight, bias: quantized weights and bias.
      align: what the integer instruction adds: requantization, multipliers, alignment of operands, narrow accumulators,
        interpolation weights.
    """

    clip: float = 0.0
    round: float = 0.0
    weight: float = 0.0
    bias: float = 0.0
    align: float = 0.0

    @property
    def total(self) -> float:
        return self.clip + self.round + self.weight + self.bias + self.align


@dataclass(frozen=True)
class BudgetRow:
    """One quantized tensor, and the node that makes it.

    Attributes:
      node: name in the planned graph; of a model input its own.
      op: operator, with what is fused into it; "Input".
      tensor: what it makes.
      bits, weight_bits: widths; None without weights.
      losses: model output -> loss.
      alone_db: SNR of the tensor if the node alone is computed in integers, on quantized float operands.
      accumulated_db: its SNR in the full integer run.
      at_low, at_high: share of its codes that are the least and the largest there are.
      dead_channels: channels that are constant in integers, but not in float.
      channels: how many it has.
      cut_by_design: values beyond its range make no difference to what reads it (masks, differences before a softmax).
      injected: the sources of `losses` that were measured by putting them alone into the float model.
    """

    node: str
    op: str
    tensor: str
    bits: int
    weight_bits: int | None
    losses: Mapping[str, Loss]
    alone_db: float
    accumulated_db: float
    at_low: float
    at_high: float
    dead_channels: int
    channels: int
    cut_by_design: bool
    injected: tuple[str, ...] = ()

    @property
    def responsible(self) -> bool:
        """Whether the node alone makes at least half of the noise of its result, and not on purpose."""
        return is_responsible(self.alone_db, self.accumulated_db, cut_by_design=self.cut_by_design)


def is_responsible(alone_db: float, accumulated_db: float, *, cut_by_design: bool) -> bool:
    """Whether a node alone makes at least half of the noise of its result, and not on purpose."""
    return not cut_by_design and alone_db <= accumulated_db - 10 * math.log10(_RESPONSIBLE)


@dataclass(frozen=True)
class Traces:
    """Errors of one output along random vectors of signs; squares and products of them estimate those of the errors.

    Attributes:
      parts: (tensor, source of `Loss`) -> float64 [K], what it adds to the output.
      error: float64 [K], the whole error of the integer run.
    """

    parts: Mapping[tuple[str, str], np.ndarray]
    error: np.ndarray

    @property
    def explained(self) -> float:
        """1 - |error - sum of the parts|**2 / |error|**2."""
        whole = float(np.sum(self.error**2))
        left = float(np.sum((self.error - sum(self.parts.values(), start=np.zeros_like(self.error))) ** 2))
        return 1 - left / whole if whole else 1.0


@dataclass(frozen=True)
class ErrorBudget:
    """Where a plan loses accuracy.

    Attributes:
      rows: every quantized tensor, in the order of computation.
      snr_db: output -> SNR of the integer run, measured.
      traces: output -> errors along random vectors, for predictions.
      spans: tensor -> float64 [2, C], least and largest float value by channel of its format ([2, 1] without channels).
      samples: on how many samples.
      platform: of the plan.
    """

    rows: tuple[BudgetRow, ...]
    snr_db: Mapping[str, float]
    traces: Mapping[str, Traces] = field(repr=False, compare=False)
    spans: Mapping[str, np.ndarray] = field(repr=False, compare=False)
    samples: int
    platform: str

    @property
    def explained(self) -> dict[str, float]:
        """Output -> share of its error that the rows add up to; far from 1, sources act on each other."""
        return {t: held.explained for t, held in self.traces.items()}

    @property
    def worst_output(self) -> str:
        """The output with the lowest SNR."""
        return min(self.snr_db, key=lambda t: self.snr_db[t])

    @property
    def first_bad(self) -> BudgetRow | None:
        """The first row in order below 20 dB for which its own node is responsible; None if there is none."""
        return next((r for r in self.rows if r.accumulated_db < BAD_BELOW_DB and r.responsible), None)

    def total(self, output: str) -> float:
        """Noise power that all rows add to an output, as a share of its signal power."""
        return sum(r.losses[output].total for r in self.rows)

    def share(self, row: BudgetRow, output: str) -> float:
        """The part of all noise at an output that a row adds, 0 to 1."""
        total = self.total(output)
        return row.losses[output].total / total if total else 0.0

    def ranked(self, output: str | None = None) -> tuple[BudgetRow, ...]:
        """The rows, the largest loss at an output (default: the worst) first."""
        at = output or self.worst_output
        return tuple(sorted(self.rows, key=lambda r: -r.losses[at].total))

    def to_json(self) -> dict[str, Any]:
        """Plain data; infinities as None."""
        return {
            "samples": self.samples,
            "platform": self.platform,
            "snr_db": {t: _plain(v) for t, v in self.snr_db.items()},
            "explained": {t: _plain(v) for t, v in self.explained.items()},
            "first_bad": None if self.first_bad is None else self.first_bad.node,
            "rows": [
                {
                    **{k: _plain(v) for k, v in vars(r).items() if k != "losses"},
                    "losses": {
                        t: {**asdict(loss), "db": _plain(as_db(loss.total)), "share": self.share(r, t)}
                        for t, loss in r.losses.items()
                    },
                }
                for r in self.rows
            ],
        }

    def table(self, count: int | None = 20, output: str | None = None) -> str:
        """Plain text: the rows with the largest losses at an output (default: the worst), shares in percent."""
        at = output or self.worst_output
        if at not in self.snr_db:
            known = ", ".join(self.snr_db)
            raise ConfigError(f"no quantized output {at!r}", where="output", fix=f"the outputs are {known}")
        lines = _columns([_HEADER, *(self._cells(r, at) for r in self.ranked(at)[:count])])
        bad = self.first_bad
        head = f"{at}: {self.snr_db[at]:.1f} dB on {self.samples} samples, {self.explained[at]:.0%} explained"
        first = "none" if bad is None else f"{bad.node} ({bad.op}), {bad.accumulated_db:.1f} dB"
        return "\n".join([head, f"first bad node: {first}", *lines])

    def _cells(self, row: BudgetRow, output: str) -> tuple[str, ...]:
        loss, total = row.losses[output], self.total(output) or 1.0
        shares = (loss.total, loss.clip, loss.round, loss.weight, loss.bias, loss.align)
        limits, mark = 100 * (row.at_low + row.at_high), _MARK if row.injected else ""
        return (
            row.node, row.op, str(row.bits), str(row.weight_bits or ""), f"{as_db(loss.total):.1f}{mark}",
            *(_percent(s / total) for s in shares), f"{row.alone_db:.1f}", f"{row.accumulated_db:.1f}",
            f"{limits:.2f}", str(row.dead_channels or ""),
        )  # fmt: skip


_HEADER = tuple("node op bits w dB share clip round weight bias align alone accum. limits dead".split())
_MARK = "*"
"""Behind losses that were measured by putting their source alone into the float model."""

_WORDS = 2
"""Columns that hold text, aligned to the left."""


def _columns(lines: Sequence[Sequence[str]]) -> list[str]:
    """Cells as lines of text."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if k < _WORDS else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def as_db(power: float) -> float:
    """A loss as the SNR it would leave alone."""
    return -10 * math.log10(power) if power > 0 else math.inf


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%" if share >= 0.0005 else ""


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
