"""The operators, one family per module; nothing registers itself."""

from collections.abc import Mapping
from types import MappingProxyType

from knerex_jax.ops import activation, conv, elementwise, gemm, norm, pool, reduce, shape, softmax, table
from knerex_jax.ops.opdef import OpDef as OpDef

_FAMILIES = (conv, gemm, norm, activation, elementwise, pool, reduce, shape, softmax, table)


def _collect() -> Mapping[str, OpDef]:
    ops = [op for family in _FAMILIES for op in family.OPS]
    registry = {op.op_type: op for op in ops}
    assert len(registry) == len(ops), "an operator is defined twice"
    return MappingProxyType(registry)


REGISTRY: Mapping[str, OpDef] = _collect()
"""op_type -> record. A caller may pass {**REGISTRY, "MyOp": MY_OP} wherever a registry is taken."""
