"""Random plans at the edges of the number formats, and the comparison of the emulator with the oracle under them.

A plan is legal as long as it respects the constraints of the graph and every shift lies in -16 .. 62; calibration never
comes near most of those plans. Here scales and radices are drawn freely, many times, and those plans are run that hold
the smallest and the largest shifts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import jax
import numpy as np
import onnx
from hypothesis import Phase, assume, settings
from hypothesis import strategies as st
from onnx_sessions import run_codes
from oracle import compare, run_oracle

from knerex_jax.artifacts.bie import Bie
from knerex_jax.compiler.build import Request, compile_program
from knerex_jax.emulator.fixed import lower_fixed
from knerex_jax.emulator.methods import Methods, choose
from knerex_jax.emulator.prepare import prepare
from knerex_jax.errors import CompileError, PlanError, UnsupportedOpError
from knerex_jax.export.integer import integer_onnx
from knerex_jax.fixedpoint.qformat import MAX_RADIX, MIN_RADIX, QFormat, data_limits
from knerex_jax.graph.ir import Model
from knerex_jax.graph.write import to_proto
from knerex_jax.npu_model import NpuModel
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import unbind
from knerex_jax.probe import behind_islands
from knerex_jax.program.bounds import bound_program
from knerex_jax.program.primitives import Table
from knerex_jax.program.program import Program
from knerex_jax.quantize.assemble import assemble
from knerex_jax.quantize.bitwidth import Widths, assign_widths
from knerex_jax.quantize.plan import QuantPlan
from knerex_jax.quantize.request import WidthRequest
from knerex_jax.quantize.structure import Structure, analyse
from knerex_jax.targets import TARGETS
from knerex_jax.targets.machine import MACHINES
from knerex_jax.targets.spec import Target

DRAWS = 40
"""Plans drawn for one model; those with the extreme shifts are run."""

SAMPLES = 3
SHIFTS = ("n", "n1", "n2", "n_in", "n_out", "k", "slope_shift")
"""Names of the shifts among the constants of an instruction."""


def few(examples: int) -> settings:
    """The settings of a property: the same examples in every run."""
    phases = (Phase.generate, Phase.shrink)
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None, phases=phases)


@dataclass(frozen=True)
class Corner:
    """Where plans are drawn.

    Attributes:
      platform: target name.
      request: widths.
      lowest, spread: radices are drawn from lowest .. lowest + spread.
      octaves: scales are drawn from 2**-octaves .. 2**(1 + octaves); 0 gives the usual [1, 2).
      together: samples run in one vmapped batch, else one by one.
      backend: whose methods are used; all of them run on any backend.
      seed: of everything else.
    """

    platform: str
    request: WidthRequest
    lowest: int
    spread: int
    octaves: int
    together: bool
    backend: str
    seed: int

    @property
    def target(self) -> Target:
        return TARGETS[self.platform]


WIDTHS = {
    "520": ((8, 8), (8, 4)),
    "720": ((8, 8), (15, 8), (15, 15), (8, 15)),
    "730": ((8, 4), (15, 4)),
}
"""Platform -> widths (data, weights)."""


@st.composite
def corners(draw: st.DrawFn, platforms: tuple[str, ...] = tuple(WIDTHS)) -> Corner:
    """A platform with a combination of widths, and a window of radices."""
    platform = draw(st.sampled_from(platforms))
    data, weights = draw(st.sampled_from(WIDTHS[platform]))
    inner = data if platform == "520" else draw(st.sampled_from((8, 15)))
    spread = draw(st.sampled_from((4, 16, MAX_RADIX - MIN_RADIX)))
    return Corner(
        platform=platform,
        request=WidthRequest(data, weights, inner, data),
        lowest=draw(st.integers(MIN_RADIX, MAX_RADIX - spread)),
        spread=spread,
        octaves=draw(st.sampled_from((0, 8))),
        together=draw(st.booleans()),
        backend=draw(st.sampled_from(("cpu", "gpu"))),
        seed=draw(st.integers(0, 2**16)),
    )


def random_plan(
    model: Model, structure: Structure, widths: Widths, corner: Corner, rng: np.random.Generator
) -> QuantPlan:
    """Scales by class, products imposed, radices free; per layer where the structure or the platform says so."""
    count = 1 + max(int(c.max()) for c in structure.classes.values())
    octave = rng.integers(-corner.octaves, corner.octaves + 1, count)
    scale = np.ldexp(rng.choice([rng.uniform(1, 2, count), np.ones(count)]), octave).astype(np.float32)
    for y, a, b in structure.products:
        value = scale[structure.classes[a]].astype(np.float64) * scale[structure.classes[b]]
        scale[structure.classes[y]] = value
    formats = {}
    for t in structure.tensors:
        if t in structure.hidden:
            continue
        own, axis = scale[structure.classes[t]], structure.axes[t]
        radix = rng.integers(corner.lowest, corner.lowest + corner.spread + 1, len(own)).astype(np.int32)
        if t in structure.layer:
            formats[t] = QFormat(radix[:1], own[:1], widths.data[t], None)
        elif rng.random() < 0.3 or not corner.target.per_channel_radix:
            formats[t] = QFormat(np.full_like(radix, radix[0]), own, widths.data[t], axis)
        else:
            formats[t] = QFormat(radix, own, widths.data[t], axis)
    return QuantPlan(
        formats=formats,
        platform=corner.platform,
        post_multiplier=corner.target.post_multiplier,
        weight_bits=dict(widths.weights),
        fused=dict(structure.fused),
        islands=tuple(structure.islands),
    )


def legal_plans(model: Model, corner: Corner) -> list[tuple[QuantPlan, Program, Mapping[str, Any]]]:
    """Of some random plans that have no shift out of range: one, and those with the smallest and the largest shift."""
    structure = analyse(model, corner.target, REGISTRY)
    widths = assign_widths(model, structure, corner.request, corner.target, REGISTRY)
    rng, found = np.random.default_rng(corner.seed), []
    for _ in range(DRAWS):
        plan = random_plan(model, structure, widths, corner, rng)
        try:
            found.append((plan, *assemble(model, plan, corner.target, REGISTRY)))
        except PlanError:
            continue
    spans = [_shifts(constants) for _, _, constants in found]
    chosen = {0, int(np.argmin([s[0] for s in spans])), int(np.argmax([s[1] for s in spans]))} if found else ()
    return [found[i] for i in sorted(chosen)]


def _shifts(constants: Mapping[str, Mapping[str, np.ndarray]]) -> tuple[int, int]:
    held = [v for integers in constants.values() for k, v in integers.items() if k in SHIFTS and np.size(v)]
    return min((int(np.min(v)) for v in held), default=0), max((int(np.max(v)) for v in held), default=0)


def random_inputs(model: Model, plan: QuantPlan, rows: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Samples [N, ...] whose codes are the limits, the smallest, anything between, and values beyond the limits.

    Integers (plain tensors) are numbers of rows, negative ones included.
    """
    inputs = {}
    for t in model.graph.inputs:
        shape = (SAMPLES, *model.graph.shape(t)[1:])
        if t not in plan.formats:
            inputs[t] = rng.integers(-rows, rows, shape).astype(model.graph.types[t].dtype)
            continue
        held = plan.formats[t]
        low, high = data_limits(held.bits)
        kinds = [rng.choice([low, high], shape), rng.choice([-1, 0, 1, low, high], shape)]
        kinds += [rng.integers(low, high + 1, shape), rng.uniform(2 * low, 2 * high, shape)]
        codes = np.choose(rng.integers(0, len(kinds), (SAMPLES, *[1] * (len(shape) - 1))), kinds)
        inputs[t] = (codes / held.factor).astype(np.float32)
    return inputs


@lru_cache(maxsize=64)
def _compiled(program: Program, methods: Methods, together: bool) -> Callable[..., Any]:
    fn = lower_fixed(program, methods, taps=tuple(program.shapes))
    return jax.jit(jax.vmap(fn, (None, 0)) if together else fn)


def emulate(program: Program, constants: Any, inputs: Mapping[str, np.ndarray], corner: Corner) -> dict[str, Any]:
    """Codes (or plain elements) [N, *shape of the program's tensor] of every tensor."""
    methods = choose(program, bound_program(program, constants), corner.backend)
    fn, params = _compiled(program, methods, corner.together), prepare(program, constants)
    shaped = {t: a.reshape(-1, *program.shapes[t]) for t, a in inputs.items()}
    if corner.together:
        return {t: np.asarray(v) for t, v in fn(params, shaped).items()}
    runs = [fn(params, {t: a[s] for t, a in shaped.items()}) for s in range(SAMPLES)]
    return {t: np.stack([np.asarray(run[t]) for run in runs]) for t in runs[0]}


def assert_exact(model: Model, corner: Corner, *rules: str, rows: int = 1) -> None:
    """Every code of every tensor equals the oracle's, under some legal plans of this corner.

    Args:
      model: a small one, decomposed.
      corner: where plans are drawn.
      rules: primitives that have to be in its program, so that no island takes their place.
      rows: integer inputs lie in -rows .. rows - 1.
    """
    plans = legal_plans(model, corner)
    assume(plans)
    assert set(rules) <= {i.rule for i in plans[0][1].instructions}
    proto = onnx.ModelProto.FromString(to_proto(unbind(model, REGISTRY)).SerializeToString())
    rng = np.random.default_rng(corner.seed + 1)
    for plan, program, constants in plans:
        inputs = random_inputs(model, plan, rows, rng)
        result = run_oracle(proto, plan.to_json(), inputs)
        found = emulate(program, constants, inputs, corner)
        assert compare(found, result.codes | result.plain) == [], (corner, plan)
        assert_simulated(program, constants, inputs, found)
        assert_exported(program, constants, inputs, found)


def assert_simulated(program: Program, constants: Any, inputs: Mapping[str, np.ndarray], found: dict[str, Any]) -> None:
    """The hardware simulator holds the same codes, with as little memory on chip as a table leaves."""
    target = MACHINES[program.platform]
    tables = any(isinstance(i, Table) and i.x_bits == 15 for i in program.instructions)
    request = Request(program, constants, machine=replace(target, sram=80_000 if tables else 4_096))
    try:
        made = compile_program(request)
    except CompileError:  # a sum over everything needs everything
        made = compile_program(replace(request, machine=target))
    taps = [t for t, _ in made.program.tensors]
    simulated = NpuModel(made.program, made.weight).run(inputs, "fixed", taps=taps)
    wrong = [t for t, v in simulated.items() if not np.array_equal(v.ravel(), np.asarray(found[t]).ravel())]
    assert wrong == []


def assert_exported(program: Program, constants: Any, inputs: Mapping[str, np.ndarray], found: dict[str, Any]) -> None:
    """ONNX Runtime holds the same codes in every tensor that no float operator takes part in, optimized or not."""
    behind = behind_islands(program)
    taps = [t for t, _ in program.tensors if t in found and t not in behind]
    try:
        model = integer_onnx(Bie(program, constants, QuantPlan({}, program.platform, True, {}, {}), {}), taps=taps)
    except UnsupportedOpError as e:  # a sum beyond 53 bits: refused, never wrong
        assert "53 bits" in e.what or "exact float32 parts" in e.what
        return
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        made = run_codes(model, {t: v[:1] for t, v in inputs.items()}, level)
        wrong = [t for t in taps if not np.array_equal(made[f"{t}_codes"].ravel(), np.asarray(found[t])[0].ravel())]
        assert wrong == [], level
