"""The float and the fixed network side by side, cut behind the sums of every weighted node whose bias is adjusted.

A stage begins with the requantization of the last cut node, by integers that may follow from what its sums were, and
ends with the sums of products of the next one and with its float value. What crosses a cut is the frontier: sums,
codes and float tensors that later stages read. Nothing is computed twice.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import jax.numpy as jnp
import msgspec
import numpy as np
from jax import Array

from knerex_jax.emulator.fixed import accumulator, finish_mac, mac_sums, quantize_input, run_instruction
from knerex_jax.emulator.methods import Methods
from knerex_jax.emulator.products import channels_first, channels_last, stored
from knerex_jax.fixedpoint.arith import exact64
from knerex_jax.graph.ir import Model, Node
from knerex_jax.ops.bind import op_of
from knerex_jax.ops.opdef import OpDef
from knerex_jax.program.primitives import Const, Instruction, Mac
from knerex_jax.program.program import Program
from knerex_jax.refine.bias_nodes import Weighted
from knerex_jax.refine.bias_sums import fixed_sums, float_sums

Step = Callable[[Any, Mapping[str, Array]], dict[str, Any]]

_Item = TypeVar("_Item", Instruction, Node)

SUM = "sum:"
"""Prefix of the sums of products in a frontier; their left shift follows."""


def code_key(tensor: str) -> str:
    """Name of a tensor's codes in a frontier."""
    return f"code:{tensor}"


def float_key(tensor: str) -> str:
    """Name of a tensor's float values in a frontier."""
    return f"float:{tensor}"


@dataclass(frozen=True)
class Stage:
    """What runs between two cuts.

    Attributes:
      start: the weighted node whose sums it begins with; None in the first stage, which begins with the model's inputs.
      instructions: fixed, between the two; constants first.
      end: the weighted node whose sums and float value it ends with.
      nodes: float, that of `end` last.
      shared: tensors that several instructions of the whole program read.
      reads: frontier tensors it needs, sums apart.
      gives: frontier tensors that it makes and a later stage reads, sums apart.
    """

    start: Mac | None
    instructions: tuple[Instruction, ...]
    end: Weighted
    nodes: tuple[Node, ...]
    shared: frozenset[str]
    reads: frozenset[str] = frozenset()
    gives: frozenset[str] = frozenset()

    @property
    def fixed(self) -> tuple[Instruction, ...]:
        """All its instructions, those at its ends included."""
        return (*((self.start,) if self.start else ()), *self.instructions, self.end.mac)

    def program(self, whole: Program) -> Program:
        """Its instructions behind `start` as a program on the codes they read."""
        if self.start is None:
            return msgspec.structs.replace(whole, inputs=whole.inputs, instructions=self.fixed)
        codes = tuple(t for t in whole.shapes if code_key(t) in self.reads or t == self.start.output)
        return msgspec.structs.replace(whole, inputs=codes, instructions=self.fixed[1:])


def make_stages(program: Program, model: Model, weighted: Sequence[Weighted]) -> tuple[Stage, ...]:
    """Cuts a program and the float graph beside it; what no weighted node needs is left out.

    Args:
      program: in the order of the graph's nodes.
      model: the float model.
      weighted: nodes to cut behind, in order.
    """
    readers = Counter(t for i in program.instructions for t in i.inputs)
    shared = frozenset(t for t, n in readers.items() if n > 1)
    names = {w.name for w in weighted}
    constants = {i.output: i for i in program.instructions if isinstance(i, Const)}
    steps = _cut(_needed([i for i in program.instructions if not isinstance(i, Const)], names), names)
    nodes = _cut(_needed(model.graph.nodes, names), names)
    made = []
    for k, end in enumerate(weighted):
        start = weighted[k - 1].mac if k else None
        reads = dict.fromkeys(t for i in steps[k] for t in i.inputs if t in constants)
        made.append(Stage(start, (*(constants[t] for t in reads), *steps[k][:-1]), end, nodes[k], shared))
    given = [_given(s, program) for s in made]
    reads = [_read(s, model) - g for s, g in zip(made, given, strict=True)]
    reads[0] = frozenset(float_key(t) for t in model.graph.inputs)
    later = [frozenset().union(*reads[k + 1 :]) for k in range(len(made))]
    return tuple(replace(s, reads=r, gives=g & x) for s, r, g, x in zip(made, reads, given, later, strict=True))


def _needed(items: Sequence[_Item], names: Collection[str]) -> list[_Item]:
    """Those that the named ones depend on, and these themselves."""
    wanted: set[str] = set()
    found: list[_Item] = []
    for item in reversed(items):
        if item.name in names or not wanted.isdisjoint(item.outputs):
            wanted.update(item.inputs)
            found.append(item)
    return found[::-1]


def _cut(items: Sequence[_Item], names: Collection[str]) -> list[tuple[_Item, ...]]:
    """Runs that end with a named item."""
    ends = [k + 1 for k, item in enumerate(items) if item.name in names]
    return [tuple(items[a:b]) for a, b in zip([0, *ends], ends, strict=False)]


def _given(stage: Stage, program: Program) -> frozenset[str]:
    """Everything a stage makes."""
    codes = [t for i in stage.fixed[:-1] for t in i.outputs]
    codes += [] if stage.start else program.inputs
    return frozenset((*map(code_key, codes), *(float_key(t) for n in stage.nodes for t in n.outputs)))


def _read(stage: Stage, model: Model) -> frozenset[str]:
    """Everything a stage's steps read."""
    floats = [t for n in stage.nodes for t in n.inputs if t and t not in model.constants]
    return frozenset((*(code_key(t) for i in stage.fixed for t in i.inputs), *map(float_key, floats)))


def sample_bytes(stages: Sequence[Stage], program: Program, model: Model) -> int:
    """Bytes of the fullest frontier, for one sample; what a stage reads and what it gives are held together."""

    def size(key: str) -> int:
        kind, tensor = key.split(":", 1)
        if kind == "float":
            return 4 * model.graph.types[tensor].size
        width = (1 if program.tensor[tensor].bits == 8 else 2) if tensor in program.tensor else 4
        return width * int(np.prod(program.shapes[tensor]))

    most, held = 0, {float_key(t) for t in model.graph.inputs}
    for k, stage in enumerate(stages):
        planes = (stage.end.mac.x_bits > 8) + (stage.end.mac.weight_bits > 8) + 1
        held |= stage.gives
        most = max(most, sum(map(size, held)) + 4 * planes * int(np.prod(stage.end.shape)))
        held &= frozenset().union(*(s.reads for s in stages[k + 1 :]))
    return most


def stage_step(
    stage: Stage, program: Program, methods: Methods, registry: Mapping[str, OpDef], *, again: bool = False
) -> Step:
    """A stage as a pure function; not compiled, not batched.

    Args:
      stage: what runs.
      program: the whole program.
      methods: of the stage's instructions, for the integers they will run with.
      registry: operator records.
      again: the sums of `start` are computed again, because its weights have changed.

    Returns:
      fn({"fixed": prepared integers, "float": constants}, frontier of one sample, images channels last) -> what the
      stage gives, likewise, the sums of `end` under "sum:<left shift>", and under "stats" the exact sums of its
      accumulator and of its float value.
    """

    def begin(params: Any, sample: Mapping[str, Array], codes: dict[str, Array]) -> None:
        i = stage.start
        if i is None:
            codes |= {t: jnp.asarray(sample[float_key(t)]) for t in program.inputs}
            for t in set(program.inputs) & set(program.tensor):
                codes[t] = quantize_input(codes[t], params[f"tensor:{t}"]["factor"], program.tensor[t].bits)
            return
        method, c = methods.step[i.name], params[i.name]
        sums = [(int(key.removeprefix(SUM)), v) for key, v in sample.items() if key.startswith(SUM)]
        y = finish_mac(i, method, c, mac_sums(i, method, c, codes[i.inputs[0]]) if again else sums)
        codes[i.output] = stored(y) if i.output in stage.shared else y

    def step(params: Any, sample: Mapping[str, Array]) -> dict[str, Any]:
        sample = {key: _turned(v, channels_first) for key, v in sample.items()}
        fixed, (codes, floats) = params["fixed"], _parted(sample)
        begin(fixed, sample, codes)
        for i in stage.instructions:
            method = methods.step[i.name]
            codes |= run_instruction(i, program, method, fixed[i.name], codes, i.output in stage.shared)
        floats = run_nodes(stage.nodes, params["float"], floats, registry)
        end = stage.end
        method, c = methods.step[end.name], fixed[end.name]
        sums = mac_sums(end.mac, method, c, codes[end.mac.inputs[0]])
        stats = stats_of(end, method, c, sums, floats[stage.nodes[-1].outputs[0]])
        values = {code_key(t): v for t, v in codes.items()} | {float_key(t): v for t, v in floats.items()}
        made = {k: values[k] for k in stage.gives} | {f"{SUM}{s}": v for s, v in sums}
        return {key: _turned(v, channels_last) for key, v in made.items()} | {"stats": stats}

    return step


def run_nodes(
    nodes: Sequence[Node], params: Mapping[str, Array], values: Mapping[str, Array], registry: Mapping[str, OpDef]
) -> dict[str, Array]:
    """Float values of nodes, beside those given."""
    found = dict(values)
    for node in nodes:
        args = [None if not t else found[t] if t in found else params[t] for t in node.inputs]
        results = op_of(node, registry).to_float(node.attrs, *args)
        results = results if isinstance(results, tuple | list) else (results,)
        found.update((t, r) for t, r in zip(node.outputs, results, strict=False) if t)
    return found


def stats_of(node: Weighted, method: Any, c: Any, sums: Any, value: Array) -> dict[str, Array]:
    """The exact sums of one sample: of the accumulator with its present bias, and of the float value."""
    with exact64() if method.wide else nullcontext():
        fixed = fixed_sums(accumulator(node.mac, method, c, sums), node.axis, node.mac.psum_bits)
    return fixed | float_sums(value, node.axis)


def across(samples: np.ndarray) -> np.ndarray:
    """Samples [N, 1, C, ...] as they cross a cut."""
    return np.moveaxis(samples, 2, -1) if samples.ndim > 4 else samples


def _turned(value: Array, turn: Callable[[Array], Array]) -> Array:
    """Images cross a cut channels last, the layout convolutions work in: no cut moves their bytes about."""
    return turn(value) if value.ndim > 3 else value


def _parted(sample: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """The codes and the floats of a frontier, by tensor."""
    codes, floats = {}, {}
    for key, value in sample.items():
        kind, tensor = key.split(":", 1)
        if kind in ("code", "float"):
            (codes if kind == "code" else floats)[tensor] = value
    return codes, floats


def parallel_step(
    weighted: Sequence[Weighted], program: Program, model: Model, methods: Methods, registry: Mapping[str, OpDef]
) -> Step:
    """One float pass in which every weighted node also runs in fixed point, on its own quantized float input.

    Returns:
      fn({"fixed": prepared integers, "float": constants}, frontier with the model's inputs) -> {node: exact sums of its
      accumulator and of its float value}, for one sample.
    """
    nodes = _needed(model.graph.nodes, {w.name for w in weighted})

    def step(params: Any, sample: Mapping[str, Array]) -> dict[str, Any]:
        floats = run_nodes(nodes, params["float"], _parted(sample)[1], registry)
        made = {}
        for w in weighted:
            (x,), method, c = w.mac.inputs, methods.step[w.name], params["fixed"][w.name]
            codes = quantize_input(floats[x], params["fixed"][f"tensor:{x}"]["factor"], program.tensor[x].bits)
            sums = mac_sums(w.mac, method, c, codes)
            made[w.name] = stats_of(w, method, c, sums, floats[model.graph.node[w.name].outputs[0]])
        return made

    return step
