"""What both ways of adjusting biases need: blocks of samples, the float pass with its sums, the totals of a node."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from jax import Array

from knerex_jax.data.sources import stack_inputs
from knerex_jax.emulator.methods import Method, Methods
from knerex_jax.emulator.prepare import Params, prepare
from knerex_jax.emulator.stream import compiler_options, samples_at_once
from knerex_jax.emulator.trust import methods_here
from knerex_jax.graph.ir import Model, Node, TensorType
from knerex_jax.lowering.batch import Reading, Readings, lower_readings
from knerex_jax.lowering.float import float_params
from knerex_jax.ops.opdef import OpDef
from knerex_jax.program.bounds import bound_program
from knerex_jax.program.primitives import Mac
from knerex_jax.program.program import Constants, Program
from knerex_jax.refine.bias_nodes import Integers, Weighted
from knerex_jax.refine.bias_stages import alone, float_reading, input_key, tensor_of
from knerex_jax.refine.bias_sums import group_sums, is_linear
from knerex_jax.refine.bias_totals import Totals, joined, mean_float, products, whole, with_bias
from knerex_jax.refine.split import FEWEST_SAMPLES, held_out

Batch = Mapping[str, np.ndarray]
"""Input name -> [n, ...], n samples in place of the model's batch axis."""

# Samples of a block: enough to make what a call costs small. Inside a call a few run at a time, as everywhere.
_AT_ONCE, _FLOAT_BYTES = 16, 128 << 20


@dataclass(frozen=True)
class Block:
    """Samples that run together.

    Attributes:
      inputs: key -> [n, ...], the frontier that begins a pass; a short block repeats its last sample.
      groups: int32 [2, n], 1 for the samples that are fitted, and for those that are held out.
    """

    inputs: Mapping[str, np.ndarray]
    groups: np.ndarray

    @property
    def samples(self) -> int:
        """Number of true samples."""
        return int(self.groups.sum())


def blocks_of(inputs: Batch | Iterable[Batch], types: Mapping[str, TensorType], size: int) -> Iterator[Block]:
    """Blocks of one shape.

    Args:
      inputs: all samples, or batches of them.
      types: of the model's inputs.
      size: samples per block.

    Raises:
      ModelError: an input is missing, does not fit, or holds NaN or infinity.
    """
    done = 0
    for given in (inputs,) if isinstance(inputs, Mapping) else inputs:
        arrays = stack_inputs(given, types)
        count = len(next(iter(arrays.values())))
        for start in range(0, count, size):
            numbers = np.arange(start, start + size)
            held, true = held_out(done + numbers), numbers < count
            places = np.minimum(numbers, count - 1)
            parts = {input_key(t): a[places].reshape(size, *types[t].shape) for t, a in arrays.items()}
            yield Block(parts, np.stack([true & ~held, true & held]).astype(np.int32))
        done += count


@dataclass(frozen=True)
class Sums:
    """What the float pass leaves: int64 sums by group.

    Attributes:
      samples: how many were fitted, how many held out.
      floats: int64 [2, 4, C], of all nodes, one behind the other.
      fixed: node -> sums of its quantized float input, if they were taken.
    """

    samples: tuple[int, int] = (0, 0)
    floats: np.ndarray = field(default_factory=lambda: np.zeros((2, 4, 1), np.int64))
    fixed: Mapping[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def joined(self) -> np.ndarray:
        """Sums of rint(x * 2**24), exact integers [2, C] (`bias_totals.joined`)."""
        return joined(self.floats[:, :-1])

    @cached_property
    def bad(self) -> np.ndarray:
        """Whether a channel has a value that cannot be summed, bool [C]."""
        return self.floats[:, -1].any(axis=0)

    def plus(self, block: Block, made: Mapping[str, Any]) -> "Sums":
        """With those of another block."""
        added = {name: self.fixed.get(name, 0) + whole(v) for name, v in made.items() if name != "float"}
        fit, held = (int(n) for n in block.groups.sum(axis=1))
        samples = self.samples[0] + fit, self.samples[1] + held
        return Sums(samples, self.floats + whole(made["float"]), added)


@dataclass(frozen=True)
class Passes:
    """The passes of a planned model for its weighted nodes; what is compiled is kept for another run.

    Attributes:
      program: what runs in fixed point.
      constants: its integers.
      model: what runs in float.
      weighted: nodes whose sums are taken.
      registry: operator records.
    """

    program: Program
    constants: Constants = field(repr=False)
    model: Model = field(repr=False)
    weighted: Sequence[Weighted] = field(repr=False)
    registry: Mapping[str, OpDef] = field(repr=False)

    @property
    def at_once(self) -> int:
        """Samples of a block: float results may depend on it, so nothing changes it."""
        return min(_AT_ONCE, samples_at_once(self.program, _FLOAT_BYTES))

    def blocks(self, inputs: Batch | Iterable[Batch]) -> Iterator[Block]:
        """The samples in blocks (`blocks_of`)."""
        types = self.model.graph.types
        return blocks_of(inputs, {t: types[t] for t in self.model.graph.inputs}, self.at_once)

    @cached_property
    def params(self) -> Params:
        """All integers on the device."""
        return jax.device_put(prepare(self.program, self.constants))

    @cached_property
    def methods(self) -> Methods:
        """Of every weighted node on any codes."""
        found = [self.method(w.mac, self.constants[w.name]) for w in self.weighted]
        return Methods(tuple(zip((w.name for w in self.weighted), found, strict=True)))

    def method(self, i: Mac, integers: Integers) -> Method:
        """How a weighted node with these integers runs on any codes."""
        program = alone(i, self.program)
        return methods_here(program, bound_program(program, {i.name: integers})).step[i.name]

    @cached_property
    def _compiled(self) -> dict[Any, Callable[..., Any]]:
        return {}

    def compiled(self, key: Any, step: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
        """A function that is compiled once for each key."""
        if key not in self._compiled:
            self._compiled[key] = jax.jit(step(), compiler_options=compiler_options(jax.default_backend()))
        return self._compiled[key]

    @cached_property
    def _float_params(self) -> Any:
        return jax.device_put(float_params(self.model))

    @cached_property
    def _own_inputs(self) -> Params:
        """Integers of the weighted nodes, each on its own quantized input."""
        macs = tuple(w.mac for w in self.weighted)
        read = tuple(dict.fromkeys(m.inputs[0] for m in macs))
        program = msgspec.structs.replace(self.program, inputs=read, instructions=macs)
        return jax.device_put(prepare(program, self.constants))

    def floats(self, blocks: Iterable[Block], *, parallel: bool = False) -> Iterator[tuple[Block, Sums]]:
        """The float pass: every block with the sums so far; parallel: those of quantized float inputs, too."""
        methods = self.methods if parallel else None

        def step() -> Callable[..., Any]:
            def read(nodes: Sequence[Node]) -> Reading:
                return float_reading(self.weighted, nodes, self.program, self.model, methods)

            return _float_sums(lower_readings(self.model, read, registry=self.registry))

        fn = self.compiled(("float", parallel), step)
        params, integers = self._float_params, self._own_inputs if parallel else {}
        sums = Sums()
        for block in blocks:
            sums = sums.plus(block, fn(params, integers, block.inputs, block.groups))
            yield block, sums

    def fixed(self, k: int, sums: np.ndarray, samples: Sequence[int]) -> np.ndarray:
        """Sums of p of the k-th weighted node by group, exact integers [2, O].

        Args:
          k: its place.
          sums: int64 [2, ...], its `fixed_sums` by group.
          samples: how many there are of each group.
        """
        node = self.weighted[k]
        if not self.linear(k):
            return joined(sums[:, :-1])
        return self.with_bias(k, products(node.mac, self.constants[node.name]["weight"], sums), samples)

    def with_bias(self, k: int, made: np.ndarray, samples: Sequence[int]) -> np.ndarray:
        """The same of a linear node from the sums of its products."""
        node = self.weighted[k]
        return with_bias(made, self.constants[node.name]["bias"], [n * node.positions for n in samples])

    def totals(self, k: int, sums: Sums, fixed: np.ndarray) -> Totals:
        """The totals of the k-th weighted node.

        Args:
          k: its place.
          sums: of the float pass.
          fixed: sums of its p (`fixed`).
        """
        own, positions = self.channels[k], self.weighted[k].positions
        values = sums.samples[0] * positions, sums.samples[1] * positions
        floats = sums.joined[:, own]
        return Totals(values, (fixed[0], fixed[1]), (floats[0], floats[1]), exact=not sums.bad[own].any())

    def linear(self, k: int) -> bool:
        """Whether the sums of the k-th weighted node are those of codes."""
        node = self.weighted[k]
        return is_linear(node.mac, self.methods.step[node.name], self.program.shapes[node.mac.inputs[0]])

    def float_means(self, sums: Sums) -> np.ndarray:
        """Of all weighted nodes, float64 [2, C]: over the samples that are fitted (all, if none judges) and that judge.

        NaN where there are none, and in channels that cannot be summed.
        """
        positions = np.concatenate([np.full(len(w.bias), w.positions) for w in self.weighted])
        judged = sum(sums.samples) >= FEWEST_SAMPLES
        values = [n * positions for n in sums.samples]
        found = [mean_float(sums.joined, values, groups) for groups in (((0,), (1,)) if judged else ((0, 1),))]
        return np.where(sums.bad, np.nan, np.stack([*found, np.full(len(positions), np.nan)][:2]))

    @cached_property
    def channels(self) -> tuple[slice, ...]:
        """Where the channels of every weighted node lie in the sums of the float pass."""
        ends = np.cumsum([len(w.bias) for w in self.weighted]).tolist()
        return tuple(map(slice, [0, *ends], ends))


def _float_sums(readings: Readings) -> Callable[..., dict[str, Array]]:
    """Sums by group of what is read of every sample."""

    def run(params: Any, integers: Params, inputs: Mapping[str, Array], groups: Array) -> dict[str, Array]:
        _, found = readings(params, integers, {tensor_of(key): v for key, v in inputs.items()})
        sums = [{name: group_sums(v, groups) for name, v in made.items()} for made in found]
        floats = jnp.concatenate([made.pop("float") for made in sums if "float" in made], axis=-1)
        return {"float": floats, **{name: v for made in sums for name, v in made.items()}}

    return run
