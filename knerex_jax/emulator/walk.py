"""A program run instruction by instruction: integers can be chosen on the way, and tensors are dropped behind it."""

from collections.abc import Callable, Iterator, Mapping

import jax
import msgspec
import numpy as np

from knerex_jax.emulator.fixed import quantize_input, run_instruction
from knerex_jax.emulator.methods import Methods
from knerex_jax.emulator.prepare import Params, prepare
from knerex_jax.emulator.stream import compiler_options, samples_at_once
from knerex_jax.emulator.trust import methods_here
from knerex_jax.program.bounds import bound_program
from knerex_jax.program.primitives import Instruction, Island, Primitive
from knerex_jax.program.program import Constants, Program

Codes = Mapping[str, np.ndarray]
"""Tensor -> codes (or plain elements) [N, *program shape]."""

Integers = Mapping[str, np.ndarray]
"""The integer constants of one instruction."""

Steps = dict[tuple[Program, Methods], Callable[..., Mapping[str, jax.Array]]]
"""Compiled functions of programs of one instruction."""


def walk(
    program: Program,
    constants: Constants,
    inputs: Mapping[str, np.ndarray],
    choice: Callable[[Primitive, Codes], Integers] | None = None,
    *,
    steps: Steps | None = None,
) -> Iterator[tuple[Instruction, Codes]]:
    """Runs a program once; yields each instruction with what it made. Tensors are dropped behind their last reader.

    Args:
      program: what runs.
      constants: its integers; of the instructions themselves only islands are run with these.
      inputs: name -> float array [N, ...] in place of the model's batch axis.
      choice: (instruction, its operands) -> the integers it runs with, instead of its own. Later instructions see what
        these give.
      steps: functions that earlier walks compiled; filled further.
    """
    steps = {} if steps is None else steps
    held = {t: input_codes(program, constants, t, inputs[t]) for t in program.inputs}
    last = {t: k for k, i in enumerate(program.instructions) for t in i.inputs}
    for k, i in enumerate(program.instructions):
        operands = {t: held[t] for t in i.inputs}
        integers = constants[i.name] if choice is None or isinstance(i, Island) else choice(i, operands)
        made = _run(i, program, {**constants, i.name: integers}, operands, _count(inputs), steps)
        held = {t: v for t, v in (held | made).items() if last.get(t, -1) > k}
        del operands
        yield i, made


def _count(inputs: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(inputs.values())))


def input_codes(program: Program, constants: Constants, tensor: str, values: np.ndarray) -> np.ndarray:
    """Codes [N, *program shape] of an input, or its elements where it is plain."""
    values = values.reshape(-1, *program.shapes[tensor])
    if tensor in program.exact:
        return values
    return np.asarray(quantize_input(values, constants[f"tensor:{tensor}"]["factor"], program.tensor[tensor].bits))


def _run(
    i: Instruction, program: Program, constants: Constants, operands: Codes, count: int, steps: Steps
) -> dict[str, np.ndarray]:  # fmt: skip
    """What one instruction makes of its operands; instructions that differ in names alone share a compiled function."""
    names = {t: t if isinstance(i, Island) else f"t{n}" for n, t in enumerate(dict.fromkeys((*i.inputs, *i.outputs)))}
    alone, integers = _alone(i, program, constants, names)
    methods = methods_here(alone, bound_program(alone, integers))
    step = steps.get((alone, methods))
    if step is None:
        step = steps[alone, methods] = _compile(alone, methods)
    params = jax.device_put(prepare(alone, integers)[alone.instructions[0].name])
    if not operands:  # a constant: every sample has the same
        made = step(params, {})
        return {t: np.broadcast_to(np.asarray(made[names[t]]), (count, *program.shapes[t])) for t in i.outputs}
    size = min(samples_at_once(alone), count)
    parts: list[Mapping[str, np.ndarray]] = []
    for start in range(0, count, size):
        batch = {names[t]: _padded(v[start : start + size], size) for t, v in operands.items()}
        parts.append({t: np.asarray(v)[: count - start] for t, v in step(params, batch).items()})
    return {t: np.concatenate([p[names[t]] for p in parts]) for t in i.outputs}


def _compile(alone: Program, methods: Methods) -> Callable[..., Mapping[str, jax.Array]]:
    (i,) = alone.instructions

    def fn(params: Params, codes: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return run_instruction(i, alone, methods.step[i.name], params, codes)

    over = jax.vmap(fn, (None, 0)) if alone.inputs else fn
    return jax.jit(over, compiler_options=compiler_options(jax.default_backend()))


def _padded(batch: np.ndarray, size: int) -> np.ndarray:
    """The last batch, as long as the others, so that there is one shape to compile."""
    return batch if len(batch) == size else np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])


def _alone(
    i: Instruction, program: Program, constants: Constants, names: Mapping[str, str]
) -> tuple[Program, dict[str, Integers]]:
    """A program of one instruction."""
    inputs, outputs = (tuple(dict.fromkeys(names[t] for t in ts)) for ts in (i.inputs, i.outputs))
    renamed = i
    if not isinstance(i, Island):
        renamed = msgspec.structs.replace(
            i, name="alone", nodes=(), inputs=tuple(names[t] for t in i.inputs), output=names[i.output]
        )
    alone = Program(
        name="alone", platform=program.platform, inputs=inputs, outputs=outputs, instructions=(renamed,),
        tensors=tuple((names[t], program.tensor[t]) for t in names if t in program.tensor),
        plain=tuple((names[t], program.exact[t]) for t in names if t in program.exact),
    )  # fmt: skip
    boundary = {f"tensor:{names[t]}": constants[f"tensor:{t}"] for t in names if t in program.tensor}
    return alone, {renamed.name: constants[i.name], **boundary}
