"""Random small networks: emulator = simulator of the compiled program = ONNX Runtime = slow oracle, in every tensor."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from helpers import Net
from hypothesis import assume, given
from hypothesis import strategies as st
from oracle import compare, run_oracle
from property.corners import (
    WIDTHS,
    Corner,
    assert_exported,
    assert_simulated,
    corners,
    few,
    legal_plans,
    random_inputs,
)

from knerex_jax.emulator.fixed import lower_fixed
from knerex_jax.emulator.methods import choose
from knerex_jax.emulator.prepare import prepare
from knerex_jax.graph.write import to_proto
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import unbind
from knerex_jax.program.bounds import bound_program

GRAPHS = 100
"""By platform; three platforms, which have all kinds of arithmetic, make 300."""

CHANNELS, SIDE = 4, 5  # one shape almost everywhere, so that kernels are compiled once for all graphs

KINDS = (
    "conv", "pointwise", "depthwise", "norm", "relu", "leaky", "clip", "swish", "add", "sub", "max", "mul", "pool",
    "gate", "swap", "join", "table",
)  # fmt: skip


def grow(net: Net, kind: str, x: str, y: str) -> str:
    """One more value of the common shape from two earlier ones."""
    match kind:
        case "conv" | "pointwise" | "depthwise":
            shape = {"conv": (3, 1), "pointwise": (1, 1), "depthwise": (3, CHANNELS)}[kind]
            return net.conv(x, CHANNELS, kernel=shape[0], group=shape[1])
        case "norm":
            return net.batch_norm(x)
        case "relu":
            return net.add("Relu", net.conv(x, CHANNELS))
        case "leaky":
            return net.add("LeakyRelu", net.conv(x, CHANNELS), alpha=float(np.float32(0.3)))
        case "clip":
            return net.add("Clip", net.batch_norm(x), min=-0.5, max=1.5)
        case "swish":
            return net.add("HardSwish", net.conv(x, CHANNELS))
        case "add" | "sub" | "max" | "mul":
            return net.add(kind.capitalize(), x, y)
        case "pool":
            window = {"kernel_shape": (3, 3), "strides": (1, 1), "pads": (1,) * 4, "dilations": (1, 1), "ceil_mode": 0}
            return net.add("MaxPool", x, **window)
        case "gate":
            return net.add("Mul", x, net.conv(net.add("GlobalAveragePool", y), CHANNELS, kernel=1))
        case "swap":
            return net.add("Transpose", x, perm=(0, 1, 3, 2))
        case "join":
            return net.conv(net.add("Concat", x, y, axis=1), CHANNELS, kernel=1)
    return net.add("Sigmoid", x)


@st.composite
def networks(draw: st.DrawFn) -> tuple[list[tuple[str, int, int]], int]:
    """Kinds of nodes, and which earlier values each reads; and a seed."""
    count = draw(st.integers(2, 6))
    picks = [(draw(st.sampled_from(KINDS)), draw(st.integers(0, k)), draw(st.integers(0, k))) for k in range(count)]
    return picks, draw(st.integers(0, 2**16))


@pytest.mark.parametrize("platform", list(WIDTHS))
def test_all_four_hold_the_same_codes(platform):
    done = []
    settings = hypothesis.settings(few(GRAPHS + 20), phases=(hypothesis.Phase.generate,))  # `done` counts

    @settings
    @given(corners((platform,)), networks())
    def run(corner: Corner, drawn: tuple[list[tuple[str, int, int]], int]) -> None:
        if len(done) >= GRAPHS:
            return
        picks, seed = drawn
        net, values = Net({"x": (1, CHANNELS, SIDE, SIDE)}, seed=seed), ["x"]
        for kind, a, b in picks:
            values.append(grow(net, kind, values[a], values[b]))
        read = {t for node in net.nodes for t in node.inputs}
        ends = [t for t in values[1:] if t not in read]
        model = net.model(*ends)
        plans = legal_plans(model, corner)
        assume(plans)
        plan, program, constants = plans[0]
        inputs = random_inputs(model, plan, 1, np.random.default_rng(seed))
        proto = onnx.ModelProto.FromString(to_proto(unbind(model, REGISTRY)).SerializeToString())
        result = run_oracle(proto, plan.to_json(), inputs)
        methods = choose(program, bound_program(program, constants), corner.backend)
        fn = lower_fixed(program, methods, taps=tuple(program.shapes))
        params = jax.device_put(prepare(program, constants))
        with jax.disable_jit():
            rows = [
                fn(params, {t: jnp.asarray(a[k].reshape(program.shapes[t])) for t, a in inputs.items()})
                for k in range(3)
            ]
        found = {t: np.stack([np.asarray(row[t]) for row in rows]) for t in rows[0]}
        assert compare(found, result.codes | result.plain) == [], (corner, plan)
        assert_simulated(program, constants, inputs, found)
        assert_exported(program, constants, inputs, found)
        done.append(picks)

    run()
    assert len(done) >= GRAPHS, "enough of the plans that were drawn are legal"
