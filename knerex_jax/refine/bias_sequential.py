"""The sequential adjustment: the fixed pass, cut in front of every node, in one compiled trace or stage by stage.

The trace holds all samples at once. At every cut it guesses the node's bias code, or asks the host for its integers
where more follows from a bias, and goes on with them. What it gave stands if the host decides so from the sums it left,
and the methods it was compiled with hold for all integers. Stages run block by block, may leave what waits between
them on disk, and are compiled again where new integers need other methods. The integers are the same.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import msgspec
import numpy as np
from jax import Array
from jax.experimental import io_callback

from knerex_jax.emulator.methods import Methods, check
from knerex_jax.emulator.prepare import prepare, prepare_bias
from knerex_jax.emulator.stream import compiler_options, samples_at_once
from knerex_jax.emulator.trust import methods_here
from knerex_jax.errors import PlanError
from knerex_jax.lowering.batch import over_samples
from knerex_jax.program.bounds import StepBound, bound_program
from knerex_jax.refine.bias_guess import as_bits, guessed_bias, read_of
from knerex_jax.refine.bias_nodes import Integers, Weighted
from knerex_jax.refine.bias_run import Block, Passes, Sums
from knerex_jax.refine.bias_stages import SUMS, Stage, alone, in_blocks, make_stages, sample_bytes, stage_step
from knerex_jax.refine.bias_sums import group_sums, largest_sum, piece_bits
from knerex_jax.refine.bias_totals import Totals, joined, whole
from knerex_jax.refine.spool import Spool

Decide = Callable[[Weighted, Totals], Integers | None]
"""From a node and its totals the integers that it is to go on with; None keeps them."""

MOST_SAMPLES = 1 << 14
"""A trace takes no more, so that sums over its samples fit int32."""

_log = logging.getLogger(__name__)


@dataclass
class Desk:
    """Whom a compiled trace asks: set before each run."""

    answer: Callable[[int, np.ndarray], dict[str, Any]]


@dataclass(frozen=True)
class Sequential:
    """The stages of a planned model; what is compiled is kept for another run."""

    passes: Passes

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The cuts."""
        return make_stages(self.passes.program, self.passes.weighted)

    @cached_property
    def _inner(self) -> tuple[Methods, ...]:
        """For every stage the methods of the instructions between its cuts, on any codes."""
        programs = [s.program(self.passes.program) for s in self.stages]
        bounds = [bound_program(p, self.passes.constants) for p in programs]
        return tuple(methods_here(p, b) for p, b in zip(programs, bounds, strict=True))

    @cached_property
    def _bounds(self) -> dict[str, StepBound]:
        """Of every weighted node on any codes."""
        passes = self.passes
        macs = [w.mac for w in passes.weighted]
        return {i.name: bound_program(alone(i, passes.program), passes.constants).step[i.name] for i in macs}

    def _step(self, k: int, methods: Methods) -> Callable[[Any, Mapping[str, Array]], dict[str, Any]]:
        """A stage with methods of its weighted nodes."""
        steps = (*self._inner[k].steps, *methods.steps)
        return stage_step(self.stages[k], self.passes.program, Methods(steps))

    def _own(self, k: int, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters that a stage reads."""
        stage = self.stages[k]
        names = [i.name for i in (stage.start, *stage.instructions, stage.end.mac) if i is not None]
        names += [] if stage.start else [key for key in params if key.startswith("tensor:")]
        return {name: params[name] for name in names}

    # In one trace

    @cached_property
    def _guessed(self) -> dict[int, dict[str, Array]]:
        """Place of every weighted node whose bias code is guessed -> what the guess reads."""
        passes = self.passes
        nodes = {k: w for k, w in enumerate(passes.weighted) if w.bias_alone}
        found = {k: read_of(w, passes.constants[w.name], passes.linear(k)) for k, w in nodes.items()}
        fits = [k for k, v in found.items() if "rows" not in v or piece_bits(nodes[k].mac, v["rows"]) > 0]
        return jax.device_put({k: found[k] for k in fits})

    def _largest(self, k: int) -> int | None:
        """Magnitude that no sum of codes of one sample exceeds (`largest_sum`); None if the node's sums are others."""
        i = self.passes.weighted[k].mac
        return largest_sum(i, self.passes.program.shapes[i.inputs[0]]) if self.passes.linear(k) else None

    @cached_property
    def _trace(self) -> tuple[Desk, Callable[..., Any]]:
        passes, desk = self.passes, Desk(lambda k, sums: {})
        like = [jax.eval_shape(_but_weight, passes.params[w.name]) for w in passes.weighted]

        def run(
            params: Any, inputs: Mapping[str, Array], groups: Array, guessed: Any, means: Array
        ) -> dict[int, tuple[Array, Array]]:
            params, frontier, sums, found = dict(params), dict(inputs), groups, {}
            at_once = math.gcd(groups.shape[1], samples_at_once(passes.program))
            for k, stage in enumerate(self.stages):
                step, own = self._step(k, passes.methods), self._own(k, params)
                made = in_blocks(partial(step, own), {key: frontier[key] for key in stage.reads}, at_once, sums)
                sums = group_sums(made.pop(SUMS), groups)
                frontier |= made
                name = stage.end.name
                if k in guessed:
                    mean = means[:, passes.channels[k]]
                    found[k] = guessed_bias(stage.end, self._largest(k), guessed[k], mean, sums, groups)
                    _, bias = found[k]
                    params[name] |= {"bias": bias.reshape(like[k]["bias"].shape)}
                else:
                    params[name] |= io_callback(partial(_ask, desk, k), like[k], sums, ordered=True)
            return found

        return desk, jax.jit(run, compiler_options=compiler_options(jax.default_backend()))

    def in_one_trace(self, blocks: Sequence[Block], sums: Sums, decide: Decide) -> bool:
        """All samples through the fixed network once; at every node `decide` may replace its integers.

        Where nothing but a bias code follows, the trace goes on with a guess of it, and `decide` is called afterwards.

        Args:
          blocks: all samples, no more than `MOST_SAMPLES`.
          sums: of the float pass over them.
          decide: called once for every node, first for those that the trace asks about. Where a bias code is guessed it
            may change nothing else.

        Returns:
          Whether the trace held for all integers; otherwise every decision is void, and some nodes have none.
        """
        passes, holds, failure = self.passes, True, None

        def decided(k: int, fixed: np.ndarray) -> Integers:
            node = passes.weighted[k]
            return decide(node, passes.totals(k, sums, fixed)) or passes.constants[node.name]

        def answer(k: int, halves: np.ndarray) -> dict[str, Any]:
            nonlocal holds, failure
            node = passes.weighted[k]
            integers = passes.constants[node.name]
            try:
                if holds:
                    new = decided(k, passes.fixed(k, whole(halves), sums.samples))
                    holds = self._serves(k, new)
                    integers = new if holds else integers
            except Exception as error:  # a trace would wrap it
                holds, failure = False, error
            return self._prepared(node, integers)

        desk, fn = self._trace
        desk.answer = answer
        inputs = {key: np.concatenate([b.inputs[key] for b in blocks]) for key in blocks[0].inputs}
        groups = np.concatenate([b.groups for b in blocks], axis=1)
        means = as_bits(passes.float_means(sums))
        found = jax.device_get(fn(passes.params, inputs, groups, self._guessed, means))
        jax.effects_barrier()
        if failure is not None:
            raise failure
        for k, (left, bias) in found.items():
            if not holds:
                break
            new = decided(k, self._fixed(k, left, sums.samples))
            holds = k == len(passes.weighted) - 1 or self._ran(k, new, bias)  # nothing runs behind the last one
        return holds

    def _ran(self, k: int, new: Integers, bias: np.ndarray) -> bool:
        """Whether the trace ran a node with these integers, of which it had guessed the bias."""
        node = self.passes.weighted[k]
        old = self.passes.constants[node.name]
        ran = prepare_bias(node.mac, new["bias"], self.passes.program).reshape(bias.shape)
        alike = all(np.array_equal(new[key], old[key]) for key in old if key != "bias")
        return alike and np.array_equal(ran, bias) and self._serves(k, new)

    def _fixed(self, k: int, left: np.ndarray, samples: Sequence[int]) -> np.ndarray:
        """Sums of p from what a guess left of them."""
        if not self.passes.linear(k):
            return self.passes.fixed(k, whole(left), samples)
        made = joined(left.astype(np.int64), piece_bits(self.passes.weighted[k].mac, self._guessed[k]["rows"]))
        return self.passes.with_bias(k, made, samples)

    def _serves(self, k: int, new: Integers) -> bool:
        """Whether a node runs with these integers on the weights and by the method it had."""
        passes, i = self.passes, self.passes.weighted[k].mac
        old, method = passes.constants[i.name], passes.methods.step[i.name]
        if passes.weighted[k].bias_alone and all(new[key] is old[key] for key in old if key != "bias"):
            value = self._bounds[i.name].value + int(np.abs(new["bias"].astype(np.int64) - old["bias"]).max())
            return (method.saturates or value < 1 << (i.psum_bits - 1)) and (method.wide or value < 1 << 31)
        program = alone(i, passes.program)
        try:
            check(program, Methods(((i.name, method),)), bound_program(program, {i.name: new}))
        except PlanError:
            return False
        return np.array_equal(new["weight"], old["weight"])

    def _prepared(self, node: Weighted, integers: Integers) -> dict[str, Any]:
        """The parameters of a node with these integers, but its weights."""
        # Those of a diagonal one are the same, and none of its weights have to be brought into another layout.
        i = msgspec.structs.replace(node.mac, kind="diagonal")
        program = alone(i, self.passes.program)
        constants = {**self.passes.constants, i.name: {**integers, "weight": integers["bias"]}}
        return _but_weight(prepare(program, constants)[i.name])

    # Stage by stage

    def by_stages(self, blocks: Iterable[Block], spool: Spool, decide: Decide) -> None:
        """Both networks, block by block; at every node `decide` may replace its integers.

        Args:
          blocks: all samples.
          spool: keeps the codes between two stages.
          decide: called for every node, in order.
        """
        groups, sums = [], Sums()
        for b, (block, sums) in enumerate(self.passes.floats(blocks)):  # noqa: B007
            groups.append(block.groups)
            for key in block.inputs.keys() & self.stages[0].reads:
                spool.put(key, b, block.inputs[key])
        if spool.folder is not None:
            expected = sample_bytes(self.stages, self.passes.program) * self.passes.at_once * len(groups)
            _log.info("bias adjustment spills %.1f MiB to disk at most", expected / 2**20)
            spool.expect(expected)
        last = {key: k for k, s in enumerate(self.stages) for key in s.reads}
        integers: Integers = {}
        for k, stage in enumerate(self.stages):
            fixed = self._run_stage(k, integers, groups, spool, last)
            totals = self.passes.totals(k, sums, self.passes.fixed(k, fixed, sums.samples))
            integers = decide(stage.end, totals) or self.passes.constants[stage.end.name]

    def _run_stage(
        self, k: int, integers: Integers, groups: Sequence[np.ndarray], spool: Spool, last: Mapping[str, int]
    ) -> np.ndarray:
        """One stage on every block, with these integers of its start -> int64 sums of its end by group."""
        passes, stage = self.passes, self.stages[k]
        params, methods = self._own(k, passes.params), dict(passes.methods.steps)
        if stage.start is not None:
            program = alone(stage.start, passes.program)
            name, constants = stage.start.name, {**passes.constants, stage.start.name: integers}
            params[name] = jax.device_put(prepare(program, constants)[name])
            methods[name] = passes.method(stage.start, integers)
        chosen = Methods(tuple((n, m) for n, m in methods.items() if n in params))

        def step() -> Callable[..., Any]:
            one = over_samples(self._step(k, chosen), samples_at_once(passes.program))

            def run(params: Any, inputs: Mapping[str, Array], groups: Array) -> tuple[dict[str, Array], Array]:
                made = one(params, inputs)
                return made, group_sums(made.pop(SUMS), groups)

            return run

        fn, total = passes.compiled((k, chosen), step), np.zeros((), np.int64)
        for b, group in enumerate(groups):
            made, sums = fn(params, {key: spool.get(key, b) for key in stage.reads}, group)
            total = total + whole(sums)
            for key in stage.reads:
                if last[key] == k:
                    spool.drop(key, b)
            for key, value in made.items():
                spool.put(key, b, value)
        return total


def _but_weight(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: v for key, v in params.items() if key != "weight"}


def _ask(desk: Desk, k: int, sums: Array) -> dict[str, Any]:
    return desk.answer(k, np.asarray(sums))
