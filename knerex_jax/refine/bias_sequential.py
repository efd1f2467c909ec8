"""The sequential adjustment: the fixed pass, cut in front of every node, in one compiled trace or stage by stage.

The trace holds all samples at once. At every cut it asks the host for the integers of the node and goes on with them,
as long as the methods it was compiled with hold for these. Stages run block by block, may leave what waits between
them on disk, and are compiled again where new integers need other methods. The integers are the same.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from jax import Array, lax
from jax.experimental import io_callback

from knerex_jax.emulator.methods import Methods, check
from knerex_jax.emulator.prepare import prepare, prepare_bias
from knerex_jax.emulator.stream import compiler_options, over_samples, samples_at_once
from knerex_jax.emulator.trust import methods_here
from knerex_jax.errors import PlanError
from knerex_jax.program.bounds import StepBound, bound_program
from knerex_jax.refine.bias_nodes import Integers, Weighted
from knerex_jax.refine.bias_run import Block, Passes, Sums
from knerex_jax.refine.bias_stages import SUMS, Stage, alone, make_stages, sample_bytes, stage_step
from knerex_jax.refine.bias_sums import Totals, group_sums, whole
from knerex_jax.refine.spool import Spool

Decide = Callable[[Weighted, Totals], Integers | None]
"""From a node and its totals the integers that it is to go on with; None keeps them."""

MOST_SAMPLES = 1 << 14
"""A trace takes no more, so that sums over its samples fit int32."""

_BIAS_ALONE = ("none", "relu", "clip")
"""Activations of which nothing follows from a bias."""

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
    def _trace(self) -> tuple[Desk, Callable[..., Array]]:
        passes, desk = self.passes, Desk(lambda k, sums: {})
        like = [jax.eval_shape(_but_weight, passes.params[w.name]) for w in passes.weighted]

        def run(params: Any, inputs: Mapping[str, Array], groups: Array) -> Array:
            params, frontier, sums = dict(params), dict(inputs), groups
            at_once = math.gcd(groups.shape[1], samples_at_once(passes.program))
            for k, stage in enumerate(self.stages):
                step, own = self._step(k, passes.methods), self._own(k, params)
                made = _in_blocks(partial(step, own), {key: frontier[key] for key in stage.reads}, at_once, sums)
                sums = group_sums(made.pop(SUMS), groups)
                frontier |= made
                name = stage.end.name
                params[name] |= io_callback(partial(_ask, desk, k), like[k], sums, ordered=True)
            return sums

        return desk, jax.jit(run, compiler_options=compiler_options(jax.default_backend()))

    def in_one_trace(self, blocks: Sequence[Block], sums: Sums, decide: Decide) -> bool:
        """All samples through the fixed network once; at every node `decide` may replace its integers.

        Args:
          blocks: all samples, no more than `MOST_SAMPLES`.
          sums: of the float pass over them.
          decide: called for every node, in order.

        Returns:
          Whether the trace held for all integers; otherwise what was decided last, and all that follows, is void.
        """
        passes, holds, failure = self.passes, True, None

        def answer(k: int, halves: np.ndarray) -> dict[str, Any]:
            nonlocal holds, failure
            node = passes.weighted[k]
            integers = passes.constants[node.name]
            try:
                new = (decide(node, passes.totals(k, sums, whole(halves))) if holds else None) or integers
                holds = holds and self._serves(k, new)
                integers = new if holds else integers
            except Exception as error:  # a trace would wrap it
                holds, failure = False, error
            return self._around_weight(node, integers)

        desk, fn = self._trace
        desk.answer = answer
        inputs = {key: np.concatenate([b.inputs[key] for b in blocks]) for key in blocks[0].inputs}
        fn(passes.params, inputs, np.concatenate([b.groups for b in blocks], axis=1)).block_until_ready()
        jax.effects_barrier()
        if failure is not None:
            raise failure
        return holds

    def _serves(self, k: int, new: Integers) -> bool:
        """Whether a node runs with these integers on the weights and by the method it had."""
        passes, i = self.passes, self.passes.weighted[k].mac
        old, method = passes.constants[i.name], passes.methods.step[i.name]
        if all(new[key] is old[key] for key in old if key != "bias") and i.act in _BIAS_ALONE:
            value = self._bounds[i.name].value + int(np.abs(new["bias"].astype(np.int64) - old["bias"]).max())
            return (method.saturates or value < 1 << (i.psum_bits - 1)) and (method.wide or value < 1 << 31)
        program = alone(i, passes.program)
        try:
            check(program, Methods(((i.name, method),)), bound_program(program, {i.name: new}))
        except PlanError:
            return False
        return np.array_equal(new["weight"], old["weight"])

    @cached_property
    def _around(self) -> dict[str, dict[str, Any]]:
        """Node -> its parameters but its weights, on the host."""
        return {w.name: self._prepared(w, self.passes.constants[w.name]) for w in self.passes.weighted}

    def _around_weight(self, node: Weighted, integers: Integers) -> dict[str, Any]:
        """The parameters of a node with these integers, but its weights."""
        old = self.passes.constants[node.name]
        if node.mac.act in _BIAS_ALONE and all(integers[key] is old[key] for key in old if key != "bias"):
            return self._around[node.name] | {"bias": prepare_bias(node.mac, integers["bias"], self.passes.program)}
        return self._prepared(node, integers)

    def _prepared(self, node: Weighted, integers: Integers) -> dict[str, Any]:
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
            totals = self.passes.totals(k, sums, fixed)
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


def _in_blocks(
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


def _but_weight(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: v for key, v in params.items() if key != "weight"}


def _ask(desk: Desk, k: int, sums: Array) -> dict[str, Any]:
    return desk.answer(k, np.asarray(sums))
