"""Small models for tests, the tolerance table, and the bridge to the independent oracle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from knerex_jax.graph.ir import Graph, Model, Node, TensorType
from knerex_jax.ops import REGISTRY

FLOAT_TOLERANCE = {"runtime": 1e-4, "pass": 1e-5}
"""Largest error relative to the output's range: against another runtime, and before and after a pass."""


@dataclass
class Net:
    """A model written node by node; shapes come from the float rules."""

    inputs: dict[str, tuple[int, ...]]
    seed: int = 0
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    types: dict[str, TensorType] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.types.update({t: TensorType("float32", s) for t, s in self.inputs.items()})

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value, np.float32)
        self.types[name] = TensorType("float32", self.constants[name].shape)
        return name

    def random(self, *shape: int, scale: float = 1.0) -> str:
        return self.constant(self.rng.normal(size=shape) * scale)

    def add(self, op_type: str, *inputs: str, name: str | None = None, **attrs: Any) -> str:
        """Appends a node and returns its output."""
        op, name = REGISTRY[op_type], name or f"{op_type.lower()}{len(self.nodes)}"
        node = Node(name, op_type, inputs, (f"{name}:0",), op.attrs(**attrs), origin=(name,))
        args = [
            None if not t else self.constants.get(t, jax.ShapeDtypeStruct(self.types[t].shape, self.types[t].dtype))
            for t in inputs
        ]
        shape = jax.eval_shape(lambda *xs: op.to_float(node.attrs, *xs), *args)
        self.types[node.outputs[0]] = TensorType(str(shape.dtype), tuple(shape.shape))
        self.nodes.append(node)
        return node.outputs[0]

    def conv(
        self, x: str, outputs: int, kernel: int = 3, stride: int = 1, group: int = 1, pad: int | None = None
    ) -> str:
        """A 2-d convolution with random weights and bias."""
        channels = self.types[x].shape[1]
        pad = kernel // 2 if pad is None else pad
        fan_in = channels // group * kernel**2
        weight = self.random(outputs, channels // group, kernel, kernel, scale=(2 / fan_in) ** 0.5)
        return self.add(
            "Conv", x, weight, self.random(outputs, scale=0.2), kernel_shape=(kernel, kernel), strides=(stride,) * 2,
            dilations=(1, 1), pads=(pad,) * 4, group=group,
        )  # fmt: skip

    def batch_norm(self, x: str) -> str:
        """A BatchNormalization in normal form."""
        c = self.types[x].shape[1]
        factor = self.constant(self.rng.uniform(0.5, 2, c) * self.rng.choice([-1, 1], c))
        return self.add(
            "BatchNormalization",
            x,
            factor,
            self.random(c),
            self.constant(np.zeros(c)),
            self.constant(np.ones(c)),
            epsilon=0.0,
        )

    def model(self, *outputs: str) -> Model:
        return Model(
            Graph("net", tuple(self.inputs), outputs, tuple(self.nodes), dict(self.types)), dict(self.constants)
        )


def relative_error(reference: np.ndarray, other: np.ndarray) -> float:
    """Largest |difference| over the range of the reference."""
    span = float(np.ptp(reference)) or float(np.abs(reference).max()) or 1.0
    return float(np.abs(np.asarray(reference, np.float64) - other).max()) / span


def samples(net: Model, count: int, seed: int = 1, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Random inputs [N, ...] in place of the batch axis."""
    rng = np.random.default_rng(seed)
    shapes: Mapping[str, Sequence[int]] = {t: net.graph.shape(t) for t in net.graph.inputs}
    return {t: (rng.normal(size=(count, *s[1:])) * scale).astype(np.float32) for t, s in shapes.items()}
