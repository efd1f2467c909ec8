"""Runs a plan in float, in integers, instruction by instruction, and backwards; keeps sums instead of tensors."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from knerex_jax.data.batches import filled_batches
from knerex_jax.data.sources import stack_inputs
from knerex_jax.diagnose.alone import cut_program, made_alone
from knerex_jax.diagnose.frozen import Frozen, Offsets, freeze_errors
from knerex_jax.diagnose.inject import ROUNDS, Injection, explains, injector, largest
from knerex_jax.emulator.fixed import lower_fixed
from knerex_jax.emulator.prepare import prepare
from knerex_jax.emulator.stream import compiler_options
from knerex_jax.emulator.trust import methods_here
from knerex_jax.fixedpoint.qformat import data_limits
from knerex_jax.lowering.float import lower_float
from knerex_jax.ops.build import softmax_difference
from knerex_jax.ops.opdef import OpDef
from knerex_jax.program.bounds import bound_program
from knerex_jax.program.program import Constants, Program
from knerex_jax.quantize.planner import Planned
from knerex_jax.simulate.params import Gates

Values = Mapping[str, Array]

STEPS = 3
"""Places between the float model and the integer run at which derivatives are taken."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TensorSums:
    """Sums of one tensor over all samples, and per channel its least and largest values, float and fixed.

    Attributes:
      signal: sum of the float values' squares.
      noise: of the squared errors of the full integer run.
      alone: of the squared errors of its instruction alone, on quantized float values.
      low_codes, high_codes: number of least and of largest codes.
      count: number of values.
      float_span, fixed_span: [2, C] least and largest value of each channel ([2, 1] where it has none).
    """

    signal: Any
    noise: Any
    alone: Any
    low_codes: Any
    high_codes: Any
    count: Any
    float_span: Any
    fixed_span: Any

    def __add__(self, other: "TensorSums") -> "TensorSums":
        spans = [
            np.stack([np.minimum(a[0], b[0]), np.maximum(a[1], b[1])])
            for a, b in ((self.float_span, other.float_span), (self.fixed_span, other.fixed_span))
        ]
        added = ("signal", "noise", "alone", "low_codes", "high_codes", "count")
        return TensorSums(*(getattr(self, f) + getattr(other, f) for f in added), *spans)


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
      tensors: formatted tensor -> sums.
      slopes: for every switch float64 [samples, outputs, probes]: what its source adds to an output, along random
        vectors of signs; the mean over probes of its square is the sum of squares over the output.
      errors: float64 [samples, outputs, probes]: the whole error of the outputs along the same vectors.
      injected: the switches whose slopes were replaced by what their source adds alone.
    """

    tensors: Mapping[str, TensorSums]
    slopes: Gates
    errors: np.ndarray
    injected: frozenset[Injection] = frozenset()

    @property
    def samples(self) -> int:
        """How many there were."""
        return len(self.errors)


def measure(
    planned: Planned,
    inputs: Mapping[str, Any],
    *,
    registry: Mapping[str, OpDef],
    samples: int,
    batch_size: int,
    probes: int,
    seed: int,
) -> Measured:
    """Measures a plan on the first samples of the inputs; the arguments are those of `error_budget`."""
    observe, outputs = _observer(planned, registry), _outputs(planned)
    frozen = freeze_errors(planned, cut_by_design(planned), outputs, registry)
    freeze, trace = _freezer(frozen), _tracer(frozen, Gates.filled(planned, 1), outputs)
    batches = [
        (batch, mask, _signs(planned, len(mask), probes, (seed, number)))
        for number, (batch, mask) in enumerate(_masked(first_samples(planned, inputs, samples, batch_size)))
    ]
    tensors: dict[str, TensorSums] = {}
    traced = []
    for batch, mask, signs in batches:
        found, held, missed = observe(batch, mask)
        slopes = trace(batch, freeze(batch, held), missed, signs)
        traced.append(jax.tree.map(lambda s, keep=mask > 0: _double(s)[keep], slopes))
        found = jax.tree.map(_double, found)
        tensors = {t: tensors[t] + s if t in tensors else s for t, s in found.items()}
    slopes, errors = jax.tree.map(lambda *parts: np.concatenate(parts), *traced)
    injected: frozenset[Injection] = frozenset()
    if not explains(slopes, errors):
        inject = injector(frozen, Gates.filled(planned, 0), outputs)
        for _ in range(ROUNDS):
            sources = largest(slopes, errors, injected)
            if not sources:
                break
            parts = [
                inject(batch, freeze(batch, observe(batch, mask)[1]), signs, sources)[mask > 0]
                for batch, mask, signs in batches
            ]
            slopes = _replaced(slopes, sources, np.concatenate(parts))
            injected |= set(sources)
    return Measured(tensors, slopes, errors, injected)


def _replaced(slopes: Gates, sources: Sequence[Injection], alone: np.ndarray) -> Gates:
    """Slopes of some sources replaced by [samples, sources, outputs, probes]."""
    for k, (source, name) in enumerate(sources):
        slopes = replace(slopes, **{source: {**getattr(slopes, source), name: alone[:, k]}})
    return slopes


def cut_by_design(planned: Planned) -> frozenset[str]:
    """Tensors that a rule of the plan cuts because what reads them sees no difference: masks, operands of a softmax."""
    graph, structure = planned.model.graph, planned.structure
    masked = {t for y, operands in structure.masked.items() for t in (y, *operands)}
    differences = (n.outputs[0] for n in graph.nodes if softmax_difference(n, graph))
    return frozenset(masked.union(t for t in differences if all(r.op_type == "Exp" for r in graph.readers.get(t, ()))))


def _double(value: Array) -> np.ndarray:
    return np.asarray(value, np.float64)


def first_samples(
    planned: Planned, inputs: Mapping[str, Any], samples: int, batch_size: int
) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """The first samples in batches of one size, the last one filled up, each with how many of its samples count."""
    graph = planned.model.graph
    stacked = stack_inputs(inputs, {t: graph.types[t] for t in graph.inputs})
    used = {t: v[:samples] for t, v in stacked.items()}
    size = min(batch_size, len(next(iter(used.values()))))
    return filled_batches(used, size, {t: graph.shape(t) for t in used})


def _masked(
    batches: Iterable[tuple[dict[str, np.ndarray], int]],
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Batches with a mask of the samples that count, float32 [B]."""
    for batch, count in batches:
        yield batch, (np.arange(len(next(iter(batch.values())))) < count).astype(np.float32)


# Forwards: float, fixed, alone


def _observer(
    planned: Planned, registry: Mapping[str, OpDef]
) -> Callable[[Values, np.ndarray], tuple[dict[str, TensorSums], Values, Values]]:
    """A compiled step: (batch, mask) -> sums by tensor, real values of the integer run, errors of the outputs."""
    program, constants = planned.program, planned.constants
    cut, cut_constants = cut_program(program, constants)
    formatted = tuple(t for t in program.tensor if t in planned.plan.formats)
    made = tuple(t for i in program.instructions for t in i.outputs if t in program.tensor)
    float_fn, float_params = lower_float(planned.model, taps=tuple(cut.inputs) + formatted, registry=registry)
    fixed_fn, fixed_params = _emulated(program, constants, formatted)
    alone_fn, alone_params = _emulated(cut, cut_constants, tuple(made_alone(t) for t in made))
    inverses = {t: _along(constants[f"tensor:{t}"]["inverse"], program, t) for t in formatted}

    def one(params: Any, inputs: Values) -> tuple[Values, Values, Values, Values]:
        values = float_fn(params[0], inputs)
        codes = fixed_fn(params[1], inputs)
        alone = alone_fn(params[2], {t: values[t] for t in cut.inputs})
        real = {t: codes[t].astype(jnp.float32) * inverses[t] for t in formatted}
        own = {t: alone[made_alone(t)].astype(jnp.float32) * inverses[t] if t in made else real[t] for t in formatted}
        return values, codes, real, own

    def step(params: Any, inputs: Values, mask: Array) -> tuple[dict[str, TensorSums], Values, Values]:
        values, codes, real, own = jax.vmap(one, (None, 0))(params, inputs)
        sums = {
            t: _sums(values[t], codes[t], real[t], own[t], mask, program.tensor[t].bits, program.tensor[t].axis)
            for t in formatted
        }
        return sums, real, {t: real[t] - values[t] for t in _outputs(planned)}

    compiled = jax.jit(step, compiler_options=compiler_options(jax.default_backend()))
    params = jax.device_put((float_params, fixed_params, alone_params))
    return lambda inputs, mask: compiled(params, inputs, mask)


def _emulated(program: Program, constants: Constants, taps: tuple[str, ...]) -> tuple[Callable[..., Any], Any]:
    methods = methods_here(program, bound_program(program, constants))
    return lower_fixed(program, methods, taps=taps), prepare(program, constants)


def _along(values: np.ndarray, program: Program, tensor: str) -> np.ndarray:
    info = program.tensor[tensor]
    return values.reshape([-1 if len(values) > 1 and i == info.axis else 1 for i in range(len(info.shape))])


def _sums(value: Array, codes: Array, real: Array, own: Array, mask: Array, bits: int, axis: int | None) -> TensorSums:
    """Of one tensor of a batch, [B, *shape]; masked samples count for nothing."""
    weight = mask.reshape(-1, *(1,) * (value.ndim - 1))
    low, high = data_limits(bits)

    def total(x: Array) -> Array:
        return jnp.sum(x.astype(jnp.float32) * weight)

    def span(x: Array) -> Array:
        # The first sample always counts and stands in for those that do not.
        x = jnp.where(weight > 0, x, x[:1])
        others = tuple(k for k in range(x.ndim) if axis is None or k != axis + 1)
        return jnp.stack([jnp.min(x, others).reshape(-1), jnp.max(x, others).reshape(-1)])

    return TensorSums(
        signal=total(value**2), noise=total((real - value) ** 2), alone=total((own - value) ** 2),
        low_codes=total(codes == low), high_codes=total(codes == high), count=total(jnp.ones_like(value)),
        float_span=span(value), fixed_span=span(real),
    )  # fmt: skip


# Backwards: what every source adds to every output


def _outputs(planned: Planned) -> tuple[str, ...]:
    return tuple(t for t in planned.model.graph.outputs if t in planned.plan.formats)


def _signs(planned: Planned, size: int, probes: int, seed: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Random vectors of signs, float32 [B, probes, *shape of an output] by output."""
    rng = np.random.default_rng(seed)
    shapes = {t: (size, probes, *planned.model.graph.shape(t)) for t in _outputs(planned)}
    return {t: rng.choice(np.float32([-1, 1]), shape) for t, shape in shapes.items()}


def _freezer(frozen: Frozen) -> Callable[[Values, Values], Offsets]:
    """A compiled step: (batch, real values of the integer run) -> what that run adds to every tensor."""
    compiled, params = jax.jit(jax.vmap(frozen.freeze, (None, 0, 0))), jax.device_put(frozen.params)
    return lambda inputs, held: compiled(params, inputs, held)


def _tracer(
    frozen: Frozen, on: Gates, outputs: Sequence[str]
) -> Callable[[Values, Offsets, Values, Mapping[str, np.ndarray]], tuple[Gates, Array]]:
    """A compiled step: (batch, offsets, errors of outputs, signs) -> slopes and errors as in `Measured`.

    The outputs with all sources at a share between 0 (float) and 1 (integer run) lead from one to the other; what one
    source contributes is the integral of the derivative in its switch along that way (Aumann and Shapley, 1974). One
    pass backwards gives its product with a random vector for every switch at once.
    """
    shares, weights = (jnp.float32(v) for v in _quadrature(STEPS))

    def one(params: Any, inputs: Values, offsets: Offsets, missed: Values, signs: Values) -> tuple[Gates, Array]:
        count = len(signs[outputs[0]])
        places = jnp.repeat(jnp.arange(len(outputs)), count)
        every = {t: jnp.tile(v, (len(outputs), *(1,) * (v.ndim - 1))) for t, v in signs.items()}

        def at(share: Array) -> Gates:
            _, pull = jax.vjp(lambda g: frozen.run(params, g, inputs, offsets), jax.tree.map(lambda _: share, on))

            def along(probe: tuple[Array, Values]) -> Gates:
                place, signs = probe
                (slopes,) = pull({t: signs[t] * (place == k).astype(np.float32) for k, t in enumerate(outputs)})
                return slopes

            return lax.map(along, (places, every))

        slopes = jax.tree.map(lambda s: jnp.tensordot(weights, s, 1), lax.map(at, shares))
        errors = jnp.stack([jnp.tensordot(signs[t], missed[t], missed[t].ndim) for t in outputs])
        return jax.tree.map(lambda s: s.reshape(len(outputs), count), slopes), errors

    compiled, params = jax.jit(jax.vmap(one, (None, 0, 0, 0, 0))), jax.device_put(frozen.params)
    return lambda inputs, offsets, missed, signs: compiled(params, inputs, offsets, missed, signs)


def _quadrature(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Places and weights of Gauss and Legendre's rule on 0 .. 1."""
    places, weights = np.polynomial.legendre.leggauss(steps)
    return (places + 1) / 2, weights / 2
