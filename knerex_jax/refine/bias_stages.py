"""A fixed program cut in front of every weighted node whose bias is adjusted, and the float pass beside it.

A stage begins with the last cut node, whose integers may follow from the sums at its cut, and ends with the sums of the
next one. What crosses a cut are codes. The float values depend on no correction: one uncut pass gives all their sums.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from jax import Array, lax

from knerex_jax.emulator.fixed import accumulator, mac_sums, quantize_input, run_instruction
from knerex_jax.emulator.methods import Method, Methods
from knerex_jax.emulator.order import outside
from knerex_jax.emulator.outline import joined_images
from knerex_jax.fixedpoint.arith import exact64
from knerex_jax.graph.ir import Model, Node
from knerex_jax.lowering.batch import Reading
from knerex_jax.ops.layout import channels_first, channels_last, stored
from knerex_jax.program.primitives import Const, Instruction, Mac
from knerex_jax.program.program import Program
from knerex_jax.refine.bias_nodes import Weighted
from knerex_jax.refine.bias_sums import accumulator_sums, code_sums, float_sums, is_linear

Step = Callable[[Any, Mapping[str, Array]], dict[str, Any]]

SUMS = "sums:"
"""Key of a step's sums beside the frontier."""

_FLOAT, _CODE = "float:", "code:"


def input_key(tensor: str) -> str:
    """Name of a model input, as it is given, in a frontier."""
    return _FLOAT + tensor


def tensor_of(key: str) -> str:
    """The input that such a name stands for."""
    return key.removeprefix(_FLOAT)


@dataclass(frozen=True)
class Stage:
    """What runs between two cuts.

    Attributes:
      start: the weighted node that it begins with; None in the first stage, which begins with the model's inputs.
      instructions: behind it; constants first.
      end: the weighted node whose sums are taken; it runs in the next stage.
      shared: tensors that several instructions of the whole program read.
      reads: frontier tensors it needs.
      gives: frontier tensors that it makes and a later stage reads.
    """

    start: Mac | None
    instructions: tuple[Instruction, ...]
    end: Weighted
    shared: frozenset[str]
    reads: frozenset[str] = frozenset()
    gives: frozenset[str] = frozenset()

    def program(self, whole: Program) -> Program:
        """Its instructions behind `start` as a program on the codes they read."""
        if self.start is None:
            return msgspec.structs.replace(whole, instructions=self.instructions)
        made = {t for i in self.instructions for t in i.outputs}
        codes = tuple(dict.fromkeys(t for i in self.instructions for t in i.inputs if t not in made))
        return msgspec.structs.replace(whole, inputs=codes, instructions=self.instructions)


def alone(i: Mac, program: Program) -> Program:
    """A mac as a program of its own, on any codes."""
    return msgspec.structs.replace(program, inputs=i.inputs, instructions=(i,))


def make_stages(program: Program, weighted: Sequence[Weighted]) -> tuple[Stage, ...]:
    """Cuts a program; what no weighted node needs is left out.

    Args:
      program: in the order of the graph's nodes.
      weighted: nodes to cut in front of, in order.
    """
    readers = Counter(t for i in program.instructions for t in i.inputs)
    shared = frozenset(t for t, n in readers.items() if n > 1)
    names = {w.name for w in weighted}
    constants = {i.output: i for i in program.instructions if isinstance(i, Const)}
    steps = _cut(_needed([i for i in program.instructions if not isinstance(i, Const)], names), names)
    made = []
    for k, end in enumerate(weighted):
        start = weighted[k - 1].mac if k else None
        held = dict.fromkeys(t for i in steps[k] for t in i.inputs if t in constants)
        made.append(Stage(start, (*(constants[t] for t in held), *steps[k][:-1]), end, shared))
    given = [_given(s, program) for s in made]
    reads = [_read(s, program) - g for s, g in zip(made, given, strict=True)]
    later = [frozenset().union(*reads[k + 1 :]) for k in range(len(made))]
    return tuple(replace(s, reads=r, gives=g & x) for s, r, g, x in zip(made, reads, given, later, strict=True))


def _needed(items: Sequence[Instruction], names: Collection[str]) -> list[Instruction]:
    """Those that the named ones depend on, and these themselves."""
    wanted: set[str] = set()
    found: list[Instruction] = []
    for item in reversed(items):
        if item.name in names or not wanted.isdisjoint(item.outputs):
            wanted.update(item.inputs)
            found.append(item)
    return found[::-1]


def _cut(items: Sequence[Instruction], names: Collection[str]) -> list[tuple[Instruction, ...]]:
    """Runs that end with a named item."""
    ends = [k + 1 for k, item in enumerate(items) if item.name in names]
    return [tuple(items[a:b]) for a, b in zip([0, *ends], ends, strict=False)]


def _given(stage: Stage, program: Program) -> frozenset[str]:
    """Everything a stage makes."""
    made = [t for i in stage.instructions for t in i.outputs]
    made += program.inputs if stage.start is None else stage.start.outputs
    return frozenset(_CODE + t for t in made)


def _read(stage: Stage, program: Program) -> frozenset[str]:
    """Everything a stage's steps read."""
    if stage.start is None:
        return frozenset(map(input_key, program.inputs))
    steps = (stage.start, *stage.instructions, stage.end.mac)
    return frozenset(_CODE + t for i in steps for t in i.inputs)


def sample_bytes(stages: Sequence[Stage], program: Program) -> int:
    """Bytes of the fullest frontier, for one sample; what a stage reads and what it gives are held together."""

    def size(key: str) -> int:
        kind, tensor = key.split(":", 1)
        coded = f"{kind}:" == _CODE and tensor in program.tensor
        width = (1 if program.tensor[tensor].bits == 8 else 2) if coded else 4
        return width * int(np.prod(program.shapes[tensor]))

    most, held = 0, stages[0].reads
    for k, stage in enumerate(stages):
        held |= stage.gives
        most = max(most, sum(map(size, held)))
        held &= frozenset().union(*(s.reads for s in stages[k + 1 :]))
    return most


def stage_step(stage: Stage, program: Program, methods: Methods) -> Step:
    """A stage as a pure function; not compiled, not batched.

    Args:
      stage: what runs.
      program: the whole program.
      methods: of the stage's instructions, for the integers they will run with.

    Returns:
      fn(prepared integers, frontier of one sample, images channels last) -> what the stage gives, likewise, and under
      "sums:" those of `end` (`fixed_sums`).
    """

    def step(params: Any, sample: Mapping[str, Array]) -> dict[str, Any]:
        codes = {k.removeprefix(_CODE): _images(v, _FIRST) for k, v in sample.items() if k.startswith(_CODE)}
        if stage.start is None:
            codes |= {t: jnp.asarray(sample[input_key(t)]) for t in program.inputs}
            for t in set(program.inputs) & set(program.tensor):
                codes[t] = quantize_input(codes[t], params[f"tensor:{t}"]["factor"], program.tensor[t].bits)
        for i in (*((stage.start,) if stage.start else ()), *stage.instructions):
            codes |= run_instruction(i, program, methods.step[i.name], params[i.name], codes, i.output in stage.shared)
        # Summed and kept: what makes them is computed once.
        codes |= {t: _STORED(codes[t]) for t in stage.end.mac.inputs}
        made = {key: _images(codes[key.removeprefix(_CODE)], _LAST) for key in stage.gives}
        return made | {SUMS: fixed_sums(stage.end, methods.step[stage.end.name], params[stage.end.name], codes)}

    return step


def in_blocks(
    step: Callable[[Mapping[str, Array]], dict[str, Any]], inputs: Mapping[str, Array], size: int, last: Array
) -> dict[str, Any]:
    """Maps a step over samples, `size` of them in parallel; `last`: int32, made just before.

    Not `lax.map`: its results begin as zeros, which the compiler keeps once for all stages and copies for each. Here
    they begin as any number that only this stage has.
    """

    def block(start: Any) -> dict[str, Any]:
        return jax.vmap(step)({key: lax.dynamic_slice_in_dim(v, start, size) for key, v in inputs.items()})

    def body(k: Any, made: Any) -> Any:
        return jax.tree.map(
            lambda old, new: lax.dynamic_update_slice_in_dim(old, new, k * size, 0), made, block(k * size)
        )

    count = len(next(iter(inputs.values()))) // size
    if count == 1:
        return block(0)
    any_number = last.reshape(-1)[0]
    start = jax.tree.map(
        lambda like: jnp.full((count * size, *like.shape[1:]), any_number.astype(like.dtype)), jax.eval_shape(block, 0)
    )
    return lax.fori_loop(0, count, body, start)


def fixed_sums(node: Weighted, method: Method, c: Any, codes: Mapping[str, Array]) -> Array:
    """Exact sums of p of a node, bias included, for one sample: of the codes it reads where p is linear in them."""
    (tensor,), i = node.mac.inputs, node.mac
    if is_linear(i, method, codes[tensor].shape):
        return code_sums(codes[tensor], i)
    with exact64() if method.wide else nullcontext():
        p = accumulator(i, method, c, mac_sums(i, method, c, codes[tensor]))
        return accumulator_sums(outside(i, p), node.axis)


# Images cross a cut channels last, the layout convolutions work in: no cut moves their bytes about.
_FIRST, _LAST, _STORED = map(joined_images, (channels_first, channels_last, stored))


def _images(value: Array, turn: Callable[[Array], Array]) -> Array:
    """An image turned, or what is none."""
    return turn(value) if value.ndim > 3 else value


def float_reading(
    weighted: Sequence[Weighted], nodes: Sequence[Node], program: Program, model: Model, parallel: Methods | None
) -> Reading:
    """What the float pass reads of some nodes.

    Args:
      weighted: nodes whose sums are taken; those that are not among `nodes` are left out.
      nodes: that run.
      program: the whole program.
      model: what runs in float.
      parallel: methods of the weighted nodes, if each is to run in fixed point, too, on its quantized float input.

    Returns:
      Of (prepared integers for `parallel`, values): "float", the sums of the nodes' float values before their
      activation (`float_sums`), one behind the other, and node -> `fixed_sums` if parallel.
    """
    names = {n.name for n in nodes}
    own = [w for w in weighted if w.name in names]
    made_by = {w.name: model.graph.node[w.name].outputs[0] for w in own}
    read = [w.mac.inputs[0] for w in own] if parallel else []

    def sums_of(given: Any, values: Mapping[str, Array]) -> dict[str, Array]:
        if not own:
            return {}
        sums = [float_sums(values[made_by[w.name]], w.axis, w.reach) for w in own]
        made = {"float": jnp.concatenate(sums, axis=1)}
        if parallel is None:
            return made
        for w in own:
            (x,) = w.mac.inputs
            codes = quantize_input(values[x], given[f"tensor:{x}"]["factor"], program.tensor[x].bits)
            made[w.name] = fixed_sums(w, parallel.step[w.name], given[w.name], {x: codes})
        return made

    return Reading(tuple(dict.fromkeys((*made_by.values(), *read))), sums_of)
