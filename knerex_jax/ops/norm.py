"""BatchNormalization: the diagonal case of `mac`, also the form of every rescale."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array

from knerex_jax.graph.ir import Model, Node
from knerex_jax.ops.build import PlanView, per_layer_unless
from knerex_jax.ops.constraint import Constraint, Own
from knerex_jax.ops.mac import MacForm, mac_program
from knerex_jax.ops.opdef import OpDef


@dataclass(frozen=True)
class BatchNormAttrs:
    """Passes bring every node to epsilon 0, mean 0 and variance 1, so that scale and bias say everything."""

    epsilon: float = 1e-5
    momentum: float = 0.9
    spatial: int = 1
    training_mode: int = 0


def _batch_norm(a: BatchNormAttrs, x: Array, scale: Array, bias: Array, mean: Array, var: Array) -> Array:
    shape = (-1,) + (1,) * (x.ndim - 2)
    factor = scale / jnp.sqrt(var + jnp.asarray(a.epsilon, var.dtype))
    return (x - mean.reshape(shape)) * factor.reshape(shape) + bias.reshape(shape)


def _constrain(node: Node, view: PlanView) -> tuple[Constraint, ...]:
    return (*per_layer_unless(view, node.inputs[0], 1), Own(node.outputs[0], 1))


def _mac(node: Node, model: Model) -> MacForm:
    scale, bias, mean, var = (model.constants[t] for t in node.inputs[1:5])
    assert not mean.any() and (var == 1).all() and node.attrs.epsilon == 0, f"{node.name} is not in normal form"
    return MacForm(
        weight=scale[:, None],
        bias=bias,
        feeding=np.arange(len(scale))[:, None],
        kind="diagonal",
        restore=lambda w: w[:, 0],
    )


BATCH_NORMALIZATION = OpDef(
    op_type="BatchNormalization", attrs=BatchNormAttrs, to_float=_batch_norm, constrain=_constrain,
    to_program=mac_program, weight=1, mac=_mac,
)  # fmt: skip

OPS = (BATCH_NORMALIZATION,)
