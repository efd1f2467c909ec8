"""Einsum."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from knerex_jax.ops.opdef import OpDef


@dataclass(frozen=True)
class EinsumAttrs:
    """The equation as in ONNX: lower-case letters, "..." and an optional right side."""

    equation: str = ""


def _einsum(a: EinsumAttrs, *xs: Array) -> Array:
    return jnp.einsum(a.equation.replace(" ", ""), *xs, precision="highest")


OPS = (OpDef(op_type="Einsum", attrs=EinsumAttrs, to_float=_einsum),)
