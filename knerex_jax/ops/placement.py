"""Where a node runs: on the platform's NPU, on the CPU beside it, or nowhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from knerex_jax.errors import UnsupportedOpError
from knerex_jax.graph.ir import Model, Node
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import op_of
from knerex_jax.ops.host import is_host
from knerex_jax.ops.opdef import OpDef, island_reason
from knerex_jax.ops.support import REWRITES, SUPPORT

Where = Literal["NPU", "fused", "decomposed", "CPU", "unsupported"]


_NONE: Mapping[str, str] = {}


@dataclass(frozen=True)
class Placement:
    """Where a node runs, and why.

    Attributes:
      where: "NPU"; "fused" into another node or "decomposed" into several, all on the NPU; "CPU"; or "unsupported".
      reason: why it is not on the NPU, or what it became there; may be empty.
      suggestion: what to change so that it runs on the NPU; may be empty.
      integer: whether it is computed in integers.
    """

    where: Where
    reason: str = ""
    suggestion: str = ""
    integer: bool = True


def placement(
    node: Node,
    model: Model,
    platform: str,
    registry: Mapping[str, OpDef] = REGISTRY,
    islands: Mapping[str, str] = _NONE,
) -> Placement:
    """Places one node of a bound model; whether it is fused or part of a decomposed one is for the caller to see.

    Args:
      node: of `model`.
      model: bound.
      platform: name of a target.
      registry: operator records.
      islands: node -> why it has no integer rule where it stands (`Structure.islands`), beside what its form says.
    """
    try:
        op = op_of(node, registry)
    except UnsupportedOpError as error:
        return Placement("unsupported", error.what, error.fix, integer=False)
    refused = refusal(node, model, platform, op)
    island = island_reason(node, model, op) or islands.get(node.name)
    if refused is None and island is None:
        return Placement("NPU")
    if refused is None:
        return Placement("CPU", f"{island}, so it runs in float on the CPU", integer=False)
    reason, _, suggestion = refused.partition(": ")
    how = "integer rule on CPU" if island is None else "float on CPU"
    return Placement("CPU", f"{reason} ({how})", suggestion, integer=island is None)


def refusal(node: Node, model: Model, platform: str, op: OpDef) -> str | None:
    """Why the platform's NPU does not run a node, as "reason: suggested rewrite"; None if it does."""
    condition = op.support.get(platform)
    if is_host(op) and platform in SUPPORT.get(node.op_type, {}):
        return f"no rule for this form of {node.op_type}: {rewrite_of(node.op_type)}"
    if condition is None:
        return f"{node.op_type} is not on the {platform} NPU: {rewrite_of(node.op_type)}"
    return condition(node, model)


def rewrite_of(op_type: str) -> str:
    """What to do about an operator that the NPU does not run."""
    return REWRITES.get(op_type, "use another operator, or let the model end before it")
