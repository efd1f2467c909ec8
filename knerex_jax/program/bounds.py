"""Static bounds of a program: the codes every tensor can hold, and how large every accumulation can become.

Interval arithmetic on the host, exact in int64, for all inputs at once. The bounds are the overflow proof of the
report and the licence of every fast method (section 4 of the arithmetic contract).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from knerex_jax.fixedpoint.arith import exact_shr
from knerex_jax.fixedpoint.qformat import data_limits
from knerex_jax.program.primitives import (
    Activate,
    Align,
    Const,
    Interp,
    Island,
    Lookup,
    Mac,
    MatMul,
    MaxPool,
    Move,
    Mul,
    PoolSum,
    Table,
)
from knerex_jax.program.program import CodeTensor, Constants, Program

Interval = tuple[int, int]


@dataclass(frozen=True)
class StepBound:
    """Bounds of one instruction, over all channels and all inputs. Integers in code units, no rounding.

    Attributes:
      terms: products or codes in one sum (1 where nothing is summed).
      sum: largest |partial sum| of products, in any order and over any subset of the terms; at most sum|w| * max|x|.
      value: largest |value| before the last shift: p of a mac with its bias, the combined operands of an align, the
        sum of a pool. Not limited to the register: a value beyond it saturates there.
      product: largest |value after saturation * multiplier|; `value` where nothing is multiplied.
      leak: largest |p * slope| of a leaky activation, before or after its shift, or |p * t| of a hard-swish; 0 without.
      width: bits of the register that holds the value.
      saturating: channels of the register that some input could saturate.
      channels: channels in all.
      entry: least and largest shift before the combination: n1 of a mac, n of an align's operands, n_in of a move.
      shift: least and largest final shift.
    """

    terms: int = 1
    sum: int = 0
    value: int = 0
    product: int = 0
    leak: int = 0
    width: int = 32
    saturating: int = 0
    channels: int = 1
    entry: Interval = (0, 0)
    shift: Interval = (0, 0)

    @property
    def proven(self) -> bool:
        """No input can exceed the register."""
        return self.saturating == 0

    @property
    def spare_bits(self) -> float:
        """log2(register / largest value): negative where saturation can occur."""
        return self.width - 1 - math.log2(max(self.value, 1))


@dataclass(frozen=True)
class Bounds:
    """Bounds of a whole program; hashable.

    Attributes:
      codes: (tensor, least and largest code).
      steps: (instruction, bounds).
    """

    codes: tuple[tuple[str, Interval], ...]
    steps: tuple[tuple[str, StepBound], ...]

    @cached_property
    def code(self) -> dict[str, Interval]:
        """Tensor -> least and largest code."""
        return dict(self.codes)

    @cached_property
    def step(self) -> dict[str, StepBound]:
        """Instruction -> bounds."""
        return dict(self.steps)

    @property
    def unproven(self) -> tuple[str, ...]:
        """Instructions whose register some input could saturate. Empty: no accumulator can overflow."""
        return tuple(name for name, step in self.steps if not step.proven)


def bound_program(program: Program, constants: Constants) -> Bounds:
    """The bounds of a program with these integers.

    Args:
      program: what runs.
      constants: instruction name -> its integers.
    """
    codes: dict[str, Interval] = {t: data_limits(program.tensor[t].bits) for t in program.inputs if t in program.tensor}
    steps = {}
    for i in program.instructions:
        if isinstance(i, Island):
            codes.update((t, data_limits(program.tensor[t].bits)) for t in i.outputs if t in program.tensor)
            steps[i.name] = StepBound()
            continue
        rule = _RULES[i.rule]
        coded = [t for t in i.inputs if t in program.tensor]
        step, span = rule(i, constants[i.name], [codes[t] for t in coded], [program.tensor[t] for t in coded])
        low, high = data_limits(i.bits)
        codes[i.output] = (max(low, min(span[0], high)), min(high, max(span[1], low)))
        steps[i.name] = step
    return Bounds(tuple(codes.items()), tuple(steps.items()))


def join(bounds: Sequence[Bounds]) -> Bounds:
    """Bounds that hold for every one of several sets of constants of one program (plans compared in one run)."""
    first = bounds[0]
    return Bounds(
        tuple((t, _hull(*(b.code[t] for b in bounds))) for t in first.code),
        tuple((name, _join([b.step[name] for b in bounds])) for name in first.step),
    )


def _join(steps: Sequence[StepBound]) -> StepBound:
    most = {f: max(getattr(s, f) for s in steps) for f in StepBound.__dataclass_fields__ if f not in ("entry", "shift")}
    return StepBound(**most, entry=_hull(*(s.entry for s in steps)), shift=_hull(*(s.shift for s in steps)))


# One rule per primitive: (instruction, constants, code intervals, types of the operands) -> bounds, output interval.

_Rule = Callable[..., tuple[StepBound, Interval]]


def _mac(i: Mac, c: Mapping[str, np.ndarray], xs: list[Interval], _: list[CodeTensor]) -> tuple[StepBound, Interval]:
    weight = _by_output(i, np.asarray(c["weight"]))
    low, high = min(xs[0][0], 0), max(xs[0][1], 0)
    # Every subset of the terms, so that the order of summation and zero padding do not matter.
    up, down = (part(weight, 0).sum(axis=1, dtype=np.int64) for part in (np.maximum, np.minimum))
    most, least = up * high + down * low, up * low + down * high
    top = np.int64(1) << (i.psum_bits - 1)
    p = np.stack([exact_shr(least, c["n1"]), exact_shr(most, c["n1"])])
    value = np.abs(p)
    p = np.clip(p, -top, top - 1) + np.asarray(c["bias"], np.int64)
    value = np.maximum(value, np.abs(p)).max(axis=0)
    p = np.clip(p, -top, top - 1)
    p, leak = _activated(i.act, p, c, top)
    product = p * np.asarray(c["m"], np.int64) if "m" in c else p
    step = StepBound(
        terms=weight.shape[1], sum=int(np.maximum(most, -least).max()), value=int(value.max()),
        product=int(np.abs(product).max()), leak=leak, width=i.psum_bits, saturating=int((value >= top).sum()),
        channels=len(value), entry=_span(c["n1"]), shift=_span(c["n2"]),
    )  # fmt: skip
    return step, _span(exact_shr(product, c["n2"]))


def _by_output(i: Mac, weight: np.ndarray) -> np.ndarray:
    """The weights as [O, terms]."""
    if i.kind != "conv_transpose":
        return weight.reshape(len(weight), -1)
    inputs, outputs = weight.shape[:2]
    grouped = weight.reshape(i.group, inputs // i.group, outputs, -1)
    return grouped.transpose(0, 2, 1, 3).reshape(i.group * outputs, -1)


def _activated(act: str, p: np.ndarray, c: Mapping[str, np.ndarray], top: int) -> tuple[np.ndarray, int]:
    """Least and largest p [2, C] after an activation, and the largest |p * slope|."""
    if act == "relu":
        return np.maximum(p, 0), 0
    if act == "clip":
        return np.clip(p, np.asarray(c["lo"], np.int64), np.asarray(c["hi"], np.int64)), 0
    if act == "leaky":
        scaled = np.minimum(p, 0) * np.asarray(c["slope"], np.int64)
        shifted = exact_shr(scaled, c["slope_shift"])
        negative = np.clip(shifted, -top, top - 1)
        both = np.concatenate(np.broadcast_arrays(negative, np.maximum(p, 0)))
        return np.stack([both.min(axis=0), both.max(axis=0)]), max(_peak(scaled), _peak(shifted))
    if act == "hard_swish":
        # p * t is lowest at p = -three / 2; not monotonic, so it is enclosed instead of evaluated at the ends of p.
        t = np.clip(p + np.asarray(c["three"], np.int64), 0, np.asarray(c["six"], np.int64))
        both = np.stack([np.minimum(p[0], 0) * t[1], np.maximum(p[1], 0) * t[1]])
        return both, _peak(both)
    if act == "neg":
        return -p[::-1], 0
    if act == "abs":
        return np.stack([np.where((p[0] <= 0) & (p[1] >= 0), 0, np.abs(p).min(axis=0)), np.abs(p).max(axis=0)]), 0
    return p, 0


def _activate(i: Activate, c: Mapping[str, np.ndarray], xs: list[Interval], _: list[CodeTensor]):
    p = np.asarray(xs[0], np.int64)[:, None]
    p, leak = _activated(i.act, p, c, 1 << (i.x_bits - 1))
    return StepBound(value=_peak(p), product=_peak(p), leak=leak, shift=_span(c["n"])), _span(exact_shr(p, c["n"]))


def _align(i: Align, c: Mapping[str, np.ndarray], xs: list[Interval], _: list[CodeTensor]):
    top = np.int64(1) << (i.psum_bits - 1)
    operands, peak, product = [], np.int64(0), 0
    for k, x in enumerate(xs):
        v = np.asarray(x, np.int64)[:, None] * (np.asarray(c["m"][k], np.int64) if i.free else 1)
        product = max(product, _peak(v))
        v = exact_shr(v, c["n"][k])
        peak = np.maximum(peak, np.abs(v).max(axis=0))
        v = np.clip(v, -top, top - 1) * i.signs[k]
        operands.append(np.sort(v, axis=0))
    if i.op == "add":
        total = sum(operands[1:], start=operands[0])
        # Partial sums in any order count, also those a later operand would bring back.
        peak = np.maximum(peak, sum(np.abs(v).max(axis=0) for v in operands))
    else:
        reduce = np.maximum if i.op == "max" else np.minimum
        total = operands[0]
        for v in operands[1:]:
            total = reduce(total, v)
    total = np.clip(total, -top, top - 1)
    step = StepBound(
        terms=len(xs), sum=product, value=int(peak.max()), product=int(peak.max()), width=i.psum_bits,
        saturating=int((peak >= top).sum()), channels=peak.size, entry=_span(c["n"]), shift=_span(c["n_out"]),
    )  # fmt: skip
    return step, _span(exact_shr(total, c["n_out"]))


def _mul(i: Mul, c: Mapping[str, np.ndarray], xs: list[Interval], _: list[CodeTensor]):
    products = np.asarray([a * b for a in xs[0] for b in xs[1]], np.int64)[:, None]
    return StepBound(value=_peak(products), product=_peak(products), shift=_span(c["n"])), _span(
        exact_shr(products, c["n"])
    )


def _matmul(i: MatMul, c: Mapping[str, np.ndarray], xs: list[Interval], types: list[CodeTensor]):
    terms = types[0].shape[-1]
    products = [a * b for a in xs[0] for b in xs[1]]
    ends = np.asarray([min(*products, 0) * terms, max(*products, 0) * terms], np.int64)[:, None]
    peak = _peak(ends)
    step = StepBound(terms=terms, sum=peak, value=peak, product=peak, width=64, shift=_span(c["n"]))
    return step, _span(exact_shr(ends, c["n"]))


def _poolsum(i: PoolSum, c: Mapping[str, np.ndarray], xs: list[Interval], types: list[CodeTensor]):
    sizes = i.window.kernel if i.window else [types[0].shape[a] for a in i.axes]
    terms = int(np.prod(sizes, dtype=np.int64))
    ends = np.asarray([min(xs[0][0], 0), max(xs[0][1], 0)], np.int64)[:, None] * terms
    peak = _peak(ends)
    n = np.asarray(c["n"], np.int64)
    product = ends
    if i.mean:
        n = (n[:, None] + np.asarray(c["e"], np.int64).reshape(1, -1)).reshape(-1)
        product = ends * np.tile(np.asarray(c["m"], np.int64).reshape(-1), len(c["n"]))
    step = StepBound(terms=terms, sum=peak, value=peak, product=_peak(product), shift=_span(n))
    return step, _span(exact_shr(product, n))


def _maxpool(i: MaxPool, c: Mapping[str, np.ndarray], xs: list[Interval], _: list[CodeTensor]):
    x = np.asarray(xs[0], np.int64)[:, None]
    return StepBound(value=_peak(x), product=_peak(x), shift=_span(c["n"])), _span(exact_shr(x, c["n"]))


def _move(i: Move, c: Mapping[str, np.ndarray], xs: list[Interval], _: list[CodeTensor]):
    operands = [np.asarray(x, np.int64)[:, None] for x in xs]
    if i.kind == "pad":
        operands.append(np.zeros((1, 1), np.int64))
    peak = max(_peak(x) for x in operands)
    if "n_in" in c:
        ends = _hull(
            *(_span(exact_shr(x, n)) for x, n in zip(operands, [*c["n_in"], np.zeros(1, np.int64)], strict=False))
        )
        return StepBound(value=peak, product=peak, entry=_span(c["n_in"])), ends
    moved = np.concatenate(operands)
    return StepBound(value=peak, product=peak, shift=_span(c["n"])), _span(exact_shr(moved, c["n"]))


def _interp(i: Interp, c: Mapping[str, np.ndarray], xs: list[Interval], _: list[CodeTensor]):
    low, high = (np.asarray([v], np.int64) for v in (min(xs[0][0], 0), max(xs[0][1], 0)))
    terms = 1
    for k in range(len(i.axes)):
        weight = np.asarray(c[f"weight{k}"], np.int64)
        up, down = int(np.maximum(weight, 0).sum(axis=1).max()), int(np.minimum(weight, 0).sum(axis=1).min())
        low, high = low * up + high * down, high * up + low * down
        terms *= weight.shape[1]
    ends = np.stack([low, high])
    peak = _peak(ends)
    step = StepBound(terms=terms, sum=peak, value=peak, product=peak, width=64, shift=_span(c["n"]))
    return step, _span(exact_shr(ends, c["n"]))


def _held(i: Const | Lookup, c: Mapping[str, np.ndarray], xs: list[Interval], _: list[CodeTensor]):
    return StepBound(), _span(c["codes"])


def _table(i: Table, c: Mapping[str, np.ndarray], xs: list[Interval], _: list[CodeTensor]):
    first = data_limits(i.x_bits)[0]
    reached = np.asarray(c["table"])[xs[0][0] - first : xs[0][1] - first + 1]
    return StepBound(), _span(reached)


def _span(values: np.ndarray) -> Interval:
    return int(np.min(values)), int(np.max(values))


def _peak(values: np.ndarray) -> int:
    return int(np.abs(values).max())


def _hull(*spans: Interval) -> Interval:
    return min(low for low, _ in spans), max(high for _, high in spans)


_RULES: dict[str, _Rule] = {
    "mac": _mac,
    "act": _activate,
    "align": _align,
    "mul": _mul,
    "matmul": _matmul,
    "poolsum": _poolsum,
    "maxpool": _maxpool,
    "move": _move,
    "interp": _interp,
    "const": _held,
    "lookup": _held,
    "table": _table,
}
