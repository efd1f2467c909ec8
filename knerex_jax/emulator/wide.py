"""One compiled emulator for many mixtures of widths: a program of 15-bit types whose widths are parameters.

A code of 8 bits is a code of 15 bits that never leaves -128 .. 127. So a program with 8-bit tensors and weights runs on
its widened form, if every instruction saturates to limits that come with its parameters instead of its type.
"""

from typing import Any

import msgspec
import numpy as np

from knerex_jax.emulator.prepare import Params, prepare
from knerex_jax.fixedpoint.qformat import data_limits
from knerex_jax.program.primitives import Instruction, Island, Primitive, Table
from knerex_jax.program.program import Constants, Program

WIDE = 15
_WIDE_PSUM = 48
_NARROW_PSUM = 16  # a hard-swish multiplies partial sums of 16 bits, whatever the operands


def widen(program: Program) -> Program:
    """The same program with data and weights of 15 bits and registers of 48.

    Programs of one graph that differ in widths alone have the same widened form. It is only meant to be run with
    parameters from `embed`.
    """
    return msgspec.structs.replace(
        program,
        instructions=tuple(_widened(i) for i in program.instructions),
        tensors=tuple((t, msgspec.structs.replace(held, bits=WIDE)) for t, held in program.tensors),
    )


def _widened(i: Instruction) -> Instruction:
    wide: dict[str, Any] = {"bits": WIDE}
    if (x_bits := getattr(i, "x_bits", None)) is not None:
        wide["x_bits"] = WIDE if isinstance(x_bits, int) else (WIDE,) * len(x_bits)
    if hasattr(i, "weight_bits"):
        wide["weight_bits"] = WIDE
    if getattr(i, "psum_bits", _NARROW_PSUM) > _NARROW_PSUM:
        wide["psum_bits"] = _WIDE_PSUM
    return msgspec.structs.replace(i, **wide)


def embed(program: Program, constants: Constants) -> Params:
    """The integers of a program as parameters of its widened form, which then gives its codes, one for one.

    Args:
      program: its inputs, and what its islands make, have 15 bits.
      constants: its integers.

    Returns:
      Parameters of `lower_fixed(widen(program), methods)`, methods chosen for the bounds of the program itself (or the
      `join` of several). Each instruction has, beside those of `prepare`, "limits", int32 [2], least and largest code
      of its output, and where values pass a register "register", int32, its bits. All embedded programs of one widened
      form give trees of equal structure, shapes and types.
    """
    outside = [t for i in program.islands for t in i.outputs] + list(program.inputs)
    narrow = [t for t in outside if t in program.tensor and program.tensor[t].bits != WIDE]
    assert not narrow, f"only instructions have limits; {narrow} must have {WIDE} bits"
    held = {i.name: _with_wide_types(i, constants[i.name]) for i in program.instructions}
    params = prepare(widen(program), {**constants, **held})
    for i in program.instructions:
        if not isinstance(i, Island):
            params[i.name] |= {"limits": np.asarray(data_limits(i.bits), np.int32), **_register(i)}
    return params


def _with_wide_types(i: Instruction, c: Any) -> dict[str, np.ndarray]:
    """Weights in 16-bit elements; a table of 256 entries in the middle of one of 32,768."""
    wide = dict(c)
    if "weight" in c:
        wide["weight"] = np.asarray(c["weight"], np.int16)
    if isinstance(i, Table):
        low, high = data_limits(i.x_bits)
        least, most = data_limits(WIDE)
        wide["table"] = np.pad(np.asarray(c["table"], np.int16), (low - least, most - high))
    return wide


def _register(i: Primitive) -> dict[str, np.ndarray]:
    bits = getattr(i, "psum_bits", None)
    if bits is None and i.rule == "act":
        bits = getattr(i, "x_bits", None)  # its slope saturates to the width of its operand
    return {} if bits is None else {"register": np.asarray(bits, np.int32)}
