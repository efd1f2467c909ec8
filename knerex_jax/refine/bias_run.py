"""Running the passes of a bias adjustment: batches of one shape, compiled steps, the frontier between them."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from typing import Any

import jax
import msgspec
import numpy as np

from knerex_jax.data.sources import stack_inputs
from knerex_jax.emulator.methods import Method, Methods, choose
from knerex_jax.emulator.prepare import prepare
from knerex_jax.emulator.stream import compiler_options, over_samples, samples_at_once
from knerex_jax.graph.ir import Model, TensorType
from knerex_jax.ops.opdef import OpDef
from knerex_jax.program.bounds import bound_program
from knerex_jax.program.primitives import Mac
from knerex_jax.program.program import Constants, Program
from knerex_jax.refine.bias_nodes import Weighted
from knerex_jax.refine.bias_stages import (
    SUM,
    Stage,
    Step,
    across,
    float_key,
    make_stages,
    parallel_step,
    sample_bytes,
    stage_step,
)
from knerex_jax.refine.bias_sums import Totals, exact_limit
from knerex_jax.refine.split import held_out
from knerex_jax.refine.spool import Spool, open_spool

Batch = Mapping[str, np.ndarray]
"""Input name -> [n, ...], n samples in place of the model's batch axis."""

_AT_ONCE = 16

_log = logging.getLogger(__name__)


def feed(
    inputs: Batch | Iterable[Batch], types: Mapping[str, TensorType], size: int
) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Batches of one shape: (frontier [size, ...] that begins a pass, number of true samples).

    Args:
      inputs: all samples, or batches of them.
      types: of the model's inputs.
      size: samples per batch.

    Raises:
      ModelError: an input is missing, does not fit, or holds NaN or infinity.
    """
    for given in (inputs,) if isinstance(inputs, Mapping) else inputs:
        arrays = stack_inputs(given, types)
        count = len(next(iter(arrays.values())))
        for start in range(0, count, size):
            true = min(size, count - start)
            places = np.minimum(np.arange(start, start + size), count - 1)
            yield {float_key(t): a[places].reshape(size, *types[t].shape) for t, a in arrays.items()}, true


@dataclass(frozen=True)
class Passes:
    """The two ways to run a planned model for its weighted nodes; what is compiled is kept for another run.

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
        """Samples that run together: float results may depend on it, so no batch size changes it."""
        return min(_AT_ONCE, samples_at_once(self.program))

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The cuts of the sequential pass."""
        return make_stages(self.program, self.model, self.weighted)

    @cached_property
    def _compiled(self) -> dict[Any, Callable[..., Any]]:
        return {}

    def _jit(self, key: Any, step: Callable[[], Step]) -> Callable[..., Any]:
        if key not in self._compiled:
            options = compiler_options(jax.default_backend())
            self._compiled[key] = jax.jit(over_samples(step(), self.at_once), compiler_options=options)
        return self._compiled[key]

    def _totals(self, node: Weighted) -> Totals:
        return Totals(node.positions, exact_limit(node.shape, node.axis))

    def _methods(self, program: Program, constants: Constants) -> Methods:
        return choose(program, bound_program(program, constants), jax.default_backend())

    def parallel(self, inputs: Batch | Iterable[Batch], batch_size: int) -> dict[str, Totals]:
        """The sums of every node on its quantized float input: node -> totals."""
        macs = tuple(w.mac for w in self.weighted)
        tensors = tuple(dict.fromkeys(m.inputs[0] for m in macs))
        program = msgspec.structs.replace(self.program, inputs=tensors, instructions=macs)
        methods = self._methods(program, self.constants)
        fn = self._jit(methods, lambda: parallel_step(self.weighted, program, self.model, methods, self.registry))
        params = jax.device_put({"fixed": prepare(program, self.constants), "float": dict(self.model.constants)})
        totals = {w.name: self._totals(w) for w in self.weighted}
        done = 0
        for batch, true in feed(inputs, self._types, -(-batch_size // self.at_once) * self.at_once):
            held = _held_out(done, true)
            for name, stats in fn(params, batch).items():
                totals[name].add(_true(stats, true), held)
            done += true
        return totals

    @property
    def _types(self) -> dict[str, TensorType]:
        return {t: self.model.graph.types[t] for t in self.model.graph.inputs}

    def sequential(
        self,
        inputs: Batch | Iterable[Batch],
        batch_size: int,
        decide: Callable[[Weighted, Totals], Mapping[str, np.ndarray] | None],
    ) -> int:
        """Runs both networks once; behind the sums of every node `decide` may replace the node's integers.

        Args:
          inputs: samples.
          batch_size: with more samples than this the frontier is spilled to disk. Steps are smaller: what one of them
            makes should fit the caches and be memory that the allocator hands out again.
          decide: (node, its totals) -> integers that the node is to go on with; None keeps them.

        Returns:
          Bytes that were spilled to disk at most, 0 if none were.
        """
        size = self.at_once
        given = feed(inputs, self._types, size)
        first = list(islice(given, -(-batch_size // size)))
        rest = list(islice(given, 1))
        last = {key: k for k, s in enumerate(self.stages) for key in s.reads}
        spills = bool(rest)
        with open_spool(on_disk=spills) as spool:
            counts = []
            for b, (batch, true) in enumerate(chain(first, rest, given)):
                counts.append(true)
                for key in batch.keys() & last.keys():
                    spool.put(key, b, across(batch[key]))
            if spills:
                expected = sample_bytes(self.stages, self.program, self.model) * size * len(counts)
                _log.info("bias adjustment spills %.1f MiB to disk at most", expected / 2**20)
                spool.expect(expected)
            integers: Mapping[str, np.ndarray] = {}
            for k, stage in enumerate(self.stages):
                totals = self._run_stage(k, integers, counts, spool, last)
                integers = decide(stage.end, totals) or self.constants[stage.end.name]
            return spool.peak if spills else 0

    @cached_property
    def _parts(self) -> tuple[tuple[Methods, Any], ...]:
        """For every stage what no correction changes: methods and device parameters of all but its start."""
        made = []
        for stage in self.stages:
            program = stage.program(self.program)
            read = {t for n in stage.nodes for t in n.inputs if t in self.model.constants}
            floats = {t: self.model.constants[t] for t in read}
            params = jax.device_put({"fixed": prepare(program, self.constants), "float": floats})
            made.append((self._methods(program, self.constants), params))
        return tuple(made)

    def _start(self, i: Mac, integers: Mapping[str, np.ndarray]) -> tuple[Method, Any, bool]:
        """Method and parameters of a stage's start, and whether its weights are new, so that its sums are, too."""
        again = not np.array_equal(integers["weight"], self.constants[i.name]["weight"])
        alone = msgspec.structs.replace(self.program, inputs=i.inputs, instructions=(i,))
        constants = {**self.constants, i.name: integers}
        prepared = prepare(alone, constants)[i.name]
        prepared = {key: v for key, v in prepared.items() if again or key != "weight"}
        return self._methods(alone, constants).step[i.name], prepared, again

    def _run_stage(
        self,
        k: int,
        integers: Mapping[str, np.ndarray],
        counts: Sequence[int],
        spool: Spool,
        last: Mapping[str, int],
    ) -> Totals:
        """One stage on every batch; integers: of its start."""
        stage, (methods, params), again = self.stages[k], self._parts[k], False
        if stage.start is not None:
            name = stage.start.name
            method, prepared, again = self._start(stage.start, integers)
            methods = Methods(((name, method), *methods.steps))
            params = {**params, "fixed": {**params["fixed"], name: prepared}}
        fn = self._jit(
            (k, methods, again), lambda: stage_step(stage, self.program, methods, self.registry, again=again)
        )
        totals, done = self._totals(stage.end), 0
        for b, true in enumerate(counts):
            sums = [key for key in spool.tensors(b) if key.startswith(SUM)]
            made = fn(params, {key: spool.get(key, b) for key in (*stage.reads, *sums)})
            for key in (*(key for key in stage.reads if last[key] == k), *sums):
                spool.drop(key, b)
            totals.add(_true(made.pop("stats"), true), _held_out(done, true))
            for key, value in made.items():
                spool.put(key, b, value)
            done += true
        return totals


def _held_out(start: int, count: int) -> np.ndarray:
    """Which of these samples, counted from `start`, are held out: bool [count]."""
    return held_out(np.arange(start, start + count))


def _true(stats: Mapping[str, Any], count: int) -> dict[str, np.ndarray]:
    """Without what padded the batch."""
    return {name: np.asarray(v)[:count] for name, v in stats.items()}
