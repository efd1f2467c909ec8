"""Which exact method computes each instruction: a static choice by bound and backend.

Any method that yields the contract's integers is allowed (section 4); a method is used only where a bound of
`program.bounds` proves it for every input. The choice is hashable and holds no integers of the plan, so that a new plan
within the same bounds runs on the same compiled program.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from knerex_jax.emulator.geometry import geometry
from knerex_jax.errors import PlanError
from knerex_jax.program.bounds import Bounds, StepBound
from knerex_jax.program.primitives import Mac, Primitive
from knerex_jax.program.program import CodeTensor, Program

Engine = Literal["int8", "bfloat16", "float32", "int32"]
Form = Literal["taps", "dot", "spread", "conv", "im2col", "none"]
Shift = Literal["none", "add", "any"]
Scale = Literal["split", "presplit"]

# Sums of int8 products: 127 * 128 or 128 * 128 (a low plane) each.
_INT8_TERMS = (2**31 - 1) // 2**14
_FLOAT32_TERMS = 2**24 // 2**14 - 1
_FEW_PIXELS = 64
_MANY_BLOCKS = 16


@dataclass(frozen=True)
class Method:
    """How one instruction is computed.

    Attributes:
      form: how products are summed: shifted multiply-adds (depthwise), one dot, a dot whose sums are spread out
        (transposed convolutions), a convolution of the library, or a dot over gathered patches.
      engine: element type that is multiplied; 15-bit operands are split into two planes of 8 bits for all. bfloat16
        holds 8 bits exactly and its products are summed in float32.
      terms: most products per sum that the engine adds exactly; longer sums are split over the input channels.
      wide: values need more than 32 bits: int64.
      entry: form of the shifts before the combination.
      shift: form of the final shift.
      scale: form of the final multiplication and shift: n >= 17 everywhere, or any n.
      saturates: the register can saturate, so its limits have to be applied.
    """

    form: Form = "none"
    engine: Engine = "int8"
    terms: int = 0
    wide: bool = False
    entry: Shift = "none"
    shift: Shift = "any"
    scale: Scale = "presplit"
    saturates: bool = False


@dataclass(frozen=True)
class Methods:
    """The method of every instruction; hashable, so it can be a static argument of a compiled function."""

    steps: tuple[tuple[str, Method], ...]

    @cached_property
    def step(self) -> dict[str, Method]:
        """Instruction -> method."""
        return dict(self.steps)


def choose(program: Program, bounds: Bounds, backend: str = "cpu", *, engine: Engine = "int8") -> Methods:
    """The fastest methods that these bounds prove.

    Args:
      program: what runs.
      bounds: of the constants it will run with; of several plans, their `join`.
      backend: "cpu", "gpu" or "tpu" (`jax.default_backend()`).
      engine: "float32" for a host whose integer products are slow (a jaxlib without them takes 40 times as long);
        "bfloat16" for the matrix units of a GPU, "int32" for a device whose products of fewer bits are not exact.
    """
    return Methods(
        tuple(
            (i.name, _CHOICES.get(i.rule, _plain)(i, bounds.step[i.name], program.tensor, backend, engine))
            for i in program.instructions
        )
    )


def check(program: Program, methods: Methods, bounds: Bounds) -> None:
    """Raises PlanError if constants with these bounds would leave what `methods` was chosen for."""
    for i in program.instructions:
        have, step = methods.step[i.name], bounds.step[i.name]
        need = _CHOICES.get(i.rule, _plain)(i, step, program.tensor, "cpu", have.engine)
        if not _covers(have, need, step):
            raise PlanError(
                f"the compiled method holds for smaller integers than this plan has ({have} against {need})",
                where=f"instruction {i.name}",
                fix="choose methods from the joined bounds of all plans that are to run on one compiled program",
            )


def _covers(have: Method, need: Method, step: StepBound) -> bool:
    order = {"none": 0, "add": 1, "any": 2, "split": 0, "presplit": 1}
    exact = have.engine in ("int8", "int32") or have.form == "taps" or have.terms < step.terms or step.sum <= 2**24
    return exact and all(
        (
            have.wide >= need.wide,
            have.saturates >= need.saturates,
            order[have.entry] >= order[need.entry],
            order[have.shift] >= order[need.shift],
            order[have.scale] >= order[need.scale],
        )
    )


# One choice per primitive that has one: (instruction, bounds, tensor types, backend, engine) -> method.


def _mac(i: Mac, step: StepBound, tensor: dict[str, CodeTensor], backend: str, engine: Engine) -> Method:
    form = _form(i, tensor, backend)
    # The left shift of `shr` stops short of the limits of a 32-bit register.
    wide = (
        max(step.sum, step.value) >= 2**31
        or step.leak >= 2**31
        or (step.entry[0] < 0 and i.psum_bits > 16)
        or (step.saturating > 0 and i.psum_bits >= 32)
    )
    return Method(
        form=form,
        engine=engine,
        terms=_terms(engine, step, 8 in (i.x_bits,) and i.weight_bits <= 8),
        wide=wide,
        entry=_shift(step.entry, step.sum),
        shift="any",
        scale="split" if step.shift[0] >= 17 else "presplit",
        saturates=not step.proven,
    )


def _form(i: Mac, tensor: dict[str, CodeTensor], backend: str) -> Form:
    if i.kind == "diagonal":
        return "none"
    if i.kind == "dense":
        return "dot"
    y = tensor[i.output].shape
    g = geometry(i, tensor[i.inputs[0]].shape, y[1])
    if g.depthwise:
        return "taps"  # grouped convolutions of the library take 16 to 440 times as long
    if g.pointwise:
        return "dot"
    if g.apart:
        return "spread"  # among zeros it would multiply as many products again for every output of a window
    # Integer convolutions of the GPU library are not to be trusted; its dots are. On few pixels a dot is faster anyway.
    plain = len(g.kernel) == 2 and g.blocks <= _MANY_BLOCKS and math.prod(g.out) > _FEW_PIXELS
    return "conv" if plain and backend == "cpu" else "im2col"


def _terms(engine: Engine, step: StepBound, narrow: bool) -> int:
    if engine in ("int8", "int32"):
        return _INT8_TERMS
    return step.terms if narrow and step.sum <= 2**24 else _FLOAT32_TERMS


def _shift(span: tuple[int, int], value: int) -> Shift:
    """The cheapest form of a shift of these amounts on values of this size."""
    if span == (0, 0):
        return "none"
    return "add" if span[0] >= 0 and value < 2**30 else "any"


def _align(i: Primitive, step: StepBound, tensor: dict[str, CodeTensor], backend: str, engine: Engine) -> Method:
    return Method(
        wide=step.value >= 2**31,
        entry=_shift(step.entry, step.sum),
        shift=_shift(step.shift, step.value),
        saturates=not step.proven,
    )


def _matmul(i: Primitive, step: StepBound, tensor: dict[str, CodeTensor], backend: str, engine: Engine) -> Method:
    narrow = all(tensor[t].bits == 8 for t in i.inputs)
    return Method(
        form="dot",
        engine=engine,
        terms=_terms(engine, step, narrow),
        wide=step.value >= 2**31,
        shift=_shift(step.shift, step.value),
    )


def _plain(i: Primitive, step: StepBound, tensor: dict[str, CodeTensor], backend: str, engine: Engine) -> Method:
    return Method(
        wide=step.value >= 2**31,
        entry=_shift(step.entry, step.value),
        shift=_shift(step.shift, step.value),
        scale="split" if step.shift[0] >= 17 else "presplit",
    )


_CHOICES: dict[str, Callable[..., Method]] = {"mac": _mac, "align": _align, "matmul": _matmul}
