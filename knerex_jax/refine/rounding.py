"""Weight rounding learned from data: every node's codes chosen so that its outputs come close to the float model's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from knerex_jax.emulator.walk import Codes, Integers, walk
from knerex_jax.errors import ConfigError
from knerex_jax.graph.ir import Node
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import op_of
from knerex_jax.ops.build import ActSpec
from knerex_jax.ops.opdef import OpDef
from knerex_jax.program.primitives import Mac, Primitive
from knerex_jax.quantize.planner import Planned, refine_plan
from knerex_jax.refine.clip import clip_weights
from knerex_jax.refine.grid import WeightGrid, grid_weights, mac_instructions, weight_grid, with_weights
from knerex_jax.refine.lattice import round_lattice
from knerex_jax.refine.rows import float_values, sample_places, weight_rows
from knerex_jax.refine.split import HELD_OUT_EVERY, held_out
from knerex_jax.targets.spec import Target

_DAMPINGS = (0.003, 0.03, 0.3)
"""How strongly codes are held near the exact weights, as shares of the mean square of what they meet."""

_NARROW_BITS = 4
"""Codes this narrow are worth clipping weights for, and err so much that they can make up for other errors."""


@dataclass(frozen=True)
class RoundingRecord:
    """What became of one node.

    Attributes:
      node: its name.
      before: mean squared error of its output on held-out samples with nearest rounding, relative to its mean square.
      after: the same with the learned codes.
      moved: share of its weights whose learned code is not the nearest.
      clipped: whether the learned codes belong to clipped weights, of a finer step.
      kept: whether the learned codes were kept; they are where they lower the held-out error.
    """

    node: str
    before: float
    after: float
    moved: float
    clipped: bool
    kept: bool


@dataclass(frozen=True)
class Rounded:
    """A plan with learned weight codes, and a record of every node that was tried, in execution order."""

    planned: Planned
    records: tuple[RoundingRecord, ...]


def learn_rounding(
    planned: Planned,
    inputs: Mapping[str, np.ndarray],
    *,
    target: Target,
    registry: Mapping[str, OpDef] = REGISTRY,
    batch_size: int = 8,
    steps: int = 4,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Rounded:
    """Chooses the weight codes of every weighted node, first to last, each behind the codes chosen before it.

    Each output of a node is an integer least squares problem in the codes of its weights (`round_lattice`), over the
    codes that the rounded nodes before it give at random places; weights of 4 bits are tried with their largest
    clipped, too. How closely to follow the samples, and whether the result is kept, is decided by the float model's
    outputs on samples held out. That judgement is worth as much as those samples are independent of the others:
    several crops of one photo are not. All samples' live tensors are held in memory.

    Args:
      planned: what was planned; its exact weights are those of `planned.refined`.
      inputs: calibration samples, name -> [N, ...] in place of the batch axis; one of every four is held out.
      target: platform.
      registry: operator records.
      batch_size: samples per compiled step of the float model.
      steps: rounds of coordinate descent behind the first solution.
      seed: of the places.
      progress: called with (nodes done, nodes).

    Raises:
      ConfigError: fewer than four samples.
      PlanError: a shift is out of range; names the node.
    """
    count = len(next(iter(inputs.values())))
    if count < HELD_OUT_EVERY:
        fix = f"give at least {HELD_OUT_EVERY}, better 100"
        raise ConfigError(f"{count} samples cannot be split", where="learned weight rounding", fix=fix)
    rng, program, graph = np.random.default_rng(seed), planned.program, planned.model.graph
    macs = {m.name: m for m in mac_instructions(planned) if m.kind != "diagonal"}
    any_narrow = any(m.weight_bits <= _NARROW_BITS for m in macs.values())
    clipped = clip_weights(planned, target, registry) if any_narrow else planned
    places = {
        m.name: sample_places(m, program, weight_grid(planned, m, registry).exact[0].size, count, rng)
        for m in macs.values()
    }
    wanted = {name: (graph.node[name].outputs[0], _axis(m), places[name]) for name, m in macs.items()}
    targets = float_values(planned.model, wanted, inputs, batch_size, registry)
    records: list[RoundingRecord] = []
    models = [planned.refined]

    def choice(i: Primitive, operands: Codes) -> Integers:
        if not isinstance(i, Mac) or i.name not in macs:
            return planned.constants[i.name]
        narrow = i.weight_bits <= _NARROW_BITS
        plans = (planned, clipped) if narrow else (planned,)
        trials = [_Trial(weight_grid(p, i, registry), p.constants[i.name], narrow) for p in plans]
        shapes = program.shapes[i.inputs[0]], program.shapes[i.output]
        rows = weight_rows(i, trials[0].grid.form, operands[i.inputs[0]], shapes, places[i.name])
        judge = held_out(np.repeat(np.arange(count), places[i.name].shape[1]))
        act = fused_activation(planned, i, registry)
        problem = _Problem(act, rows, targets.pop(i.name), judge)
        best, codes, record = _learn(i.name, trials, problem, steps)
        records.append(record)
        if progress is not None:
            progress(len(records), len(macs))
        if not record.kept:
            return trials[0].integers
        weight = best.grid.form.restore(grid_weights(best.grid, codes))
        models[:] = [with_weights(models[0], i.name, weight, registry)]
        made = best.grid.form.restore(codes) if i.kind == "conv_transpose" else codes
        return {**best.integers, "weight": made.astype(best.integers["weight"].dtype)}

    for _ in walk(program, planned.constants, inputs, choice):
        pass
    return Rounded(refine_plan(planned, models[0], target, registry), tuple(records))


@dataclass(frozen=True)
class _Trial:
    """A grid that the weights of a node may lie on.

    Attributes:
      grid: the grid.
      integers: of the node with nearest rounding there.
      narrow: whether its codes may make up for the errors of what they meet.
    """

    grid: WeightGrid
    integers: Integers
    narrow: bool

    @property
    def bias(self) -> np.ndarray:
        """In units of the sums of products, float64 [O]."""
        return np.ldexp(self.integers["bias"].astype(np.float64), self.integers["n1"])


@dataclass(frozen=True)
class _Problem:
    """What a node should give.

    Attributes:
      act: its fused activation.
      rows: float32 [G, R, F], the codes that its weights meet.
      targets: float32 [R, O], what the float model gives before the activation.
      held_out: bool [R], rows that judge.
    """

    act: ActSpec
    rows: np.ndarray
    targets: np.ndarray
    held_out: np.ndarray

    def error(self, trial: _Trial, codes: np.ndarray) -> float:
        """Mean squared error behind the activation on held-out rows, relative to the mean square there."""
        made = self.rows[:, self.held_out] @ codes.astype(np.float32).swapaxes(1, 2)
        sums = np.moveaxis(made, 0, 1).reshape(made.shape[1], -1)
        real = apply_activation(self.act, (sums + trial.bias) / trial.grid.accumulator)
        reference = apply_activation(self.act, self.targets[self.held_out])
        return float(np.mean((real - reference) ** 2) / max(float(np.mean(reference**2)), 1e-30))

    def gram(self) -> np.ndarray:
        """Mean products of the learning rows with themselves, float64 [G, F, F]."""
        rows = self.rows[:, ~self.held_out]
        return (rows.swapaxes(1, 2) @ rows).astype(np.float64) / rows.shape[1]

    def slope(self, trial: _Trial, codes: np.ndarray) -> np.ndarray:
        """Mean products of the learning rows with what the float model gives beyond codes [G, O / G, F].

        Returns:
          float64 [G, F, O / G].
        """
        rows, groups = self.rows[:, ~self.held_out], len(self.rows)
        sums = (self.targets * trial.grid.accumulator - trial.bias).astype(np.float32)[~self.held_out]
        wanted = np.moveaxis(sums.reshape(len(sums), groups, -1), 1, 0)
        missing = wanted - rows @ codes.astype(np.float32).swapaxes(1, 2)
        return (rows.swapaxes(1, 2) @ missing).astype(np.float64) / rows.shape[1]


def _learn(
    name: str, trials: Sequence[_Trial], problem: _Problem, steps: int
) -> tuple[_Trial, np.ndarray, RoundingRecord]:
    """The best grid, codes [O, J, *kernel] on it, and what they bring."""
    groups = len(problem.rows)
    before = problem.error(trials[0], _grouped(trials[0].grid.codes, groups))
    found = []
    for trial in trials:
        for codes in _solutions(trial, problem, steps):
            found.append((problem.error(trial, codes), trial, codes))
    after, best, codes = min(found, key=lambda f: f[0])
    codes = codes.reshape(best.grid.codes.shape).astype(np.int32)
    moved = float((codes != best.grid.codes).mean())
    record = RoundingRecord(name, before, after, moved, best is not trials[0], after < before)
    return best, codes, record


def _solutions(trial: _Trial, problem: _Problem, steps: int) -> Iterator[np.ndarray]:
    """Codes [G, O / G, F] that follow the samples more or less closely.

    They come close to what the exact weights give for the same integer inputs. Narrow codes may also make up for the
    errors of these inputs; wide ones would fit the samples instead: MobileNetV2 int8, learned on crops of some photos,
    has 13.7 dB on other photos that way, 16.7 dB this way and 12.9 dB with nearest rounding.
    """
    grid, groups = trial.grid, len(problem.rows)
    exact, nearest, held = (_grouped(a, groups) for a in (grid.exact, grid.codes, grid.held))
    gram, limit = problem.gram(), grid.limit.reshape(groups, -1, 1)
    power = np.diagonal(gram, axis1=1, axis2=2).mean(axis=1)[:, None, None] * np.eye(gram.shape[1])
    slope = problem.slope(trial, exact) if trial.narrow else None
    for damping in _DAMPINGS:
        damped = gram + damping * power + 1e-6 * np.eye(gram.shape[1])
        yield round_lattice(exact, damped, limit, held, nearest, steps)
        if slope is not None:
            wanted = exact + np.linalg.solve(damped, slope).swapaxes(1, 2)
            yield round_lattice(wanted, damped, limit, held, nearest, steps)


def _axis(mac: Mac) -> int:
    assert mac.axis is not None, f"{mac.name} has no output channels"
    return mac.axis


def fused_activation(planned: Planned, mac: Mac, registry: Mapping[str, OpDef] = REGISTRY) -> ActSpec:
    """The activation inside a weighted node."""
    if len(mac.nodes) == 1:
        return ActSpec("none")
    node: Node = planned.model.graph.node[mac.nodes[1]]
    rule = op_of(node, registry).activation
    assert rule is not None
    return rule(node, planned.model)


def apply_activation(act: ActSpec, z: np.ndarray) -> np.ndarray:
    """A fused activation in float, on [..., C]."""
    if act.kind == "relu":
        return np.maximum(z, 0)
    if act.kind == "clip":
        return np.clip(z, act.low, act.high)
    if act.kind == "leaky":
        assert act.slope is not None
        return np.where(z < 0, z * act.slope.astype(z.dtype), z)
    return z * np.clip(z + 3, 0, 6) / 6 if act.kind == "hard_swish" else z


def _grouped(weights: np.ndarray, groups: int) -> np.ndarray:
    """[O, J, *kernel] -> [G, O / G, F]."""
    return weights.reshape(groups, len(weights) // groups, -1)
