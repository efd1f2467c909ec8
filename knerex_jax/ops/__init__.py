"""The operators, one family per module; nothing registers itself."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from knerex_jax.ops import (
    activation,
    attention,
    cast,
    conv,
    conv_transpose,
    einsum,
    elementwise,
    gemm,
    index,
    interp,
    logic,
    loop,
    loss,
    norm,
    pool,
    quantlinear,
    rearrange,
    reduce,
    resize,
    rnn,
    shape,
    signal,
    sizes,
    softmax,
    unary,
    vision,
)
from knerex_jax.ops.opdef import OpDef as OpDef
from knerex_jax.ops.support import SUPPORT

_FAMILIES = (
    conv,
    conv_transpose,
    gemm,
    interp,
    norm,
    activation,
    elementwise,
    pool,
    reduce,
    resize,
    shape,
    sizes,
    rearrange,
    index,
    logic,
    cast,
    softmax,
    unary,
    einsum,
    quantlinear,
    vision,
    attention,
    rnn,
    signal,
    loss,
    loop,
)


def _collect() -> Mapping[str, OpDef]:
    ops = [op for family in _FAMILIES for op in family.OPS]
    registry = {op.op_type: replace(op, support=SUPPORT.get(op.op_type, {})) for op in ops}
    assert len(registry) == len(ops), "an operator is defined twice"
    return MappingProxyType(registry)


REGISTRY: Mapping[str, OpDef] = _collect()
"""op_type -> record. A caller may pass {**REGISTRY, "MyOp": MY_OP} wherever a registry is taken."""
