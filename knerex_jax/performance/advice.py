"""Which nodes cost most, and what would help."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from knerex_jax.compiler.work import planes
from knerex_jax.performance.nodes import NodeCost
from knerex_jax.targets.machine import GRANULE, Machine

MOST = 3
"""So many nodes get advice."""

WASTEFUL = 0.5
"""Below this share of useful multiplications the shape of a layer is what to change."""


@dataclass(frozen=True)
class Advice:
    """A costly node.

    Attributes:
      node: its name on the backend.
      label: the same in short.
      share: of the inference time.
      limit: what takes most of its time.
      help: what would make it faster.
    """

    node: str
    label: str
    share: float
    limit: str
    help: str

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def advise(nodes: Sequence[NodeCost], machine: Machine, platform: str) -> tuple[Advice, ...]:
    """The costliest nodes first; none where nothing costs anything."""
    total = sum(n.sync_ms for n in nodes)
    costly = sorted((n for n in nodes if n.sync_ms > 0), key=lambda n: -n.sync_ms)[:MOST]
    return tuple(Advice(n.backend, n.label, n.sync_ms / total, n.limit, _help(n, machine, platform)) for n in costly)


def _help(node: NodeCost, machine: Machine, platform: str) -> str:
    match node.limit:
        case "multiplications":
            return _of_multiplications(node, machine)
        case "elements":
            return "elementwise work: right behind a convolution or addition, Relu and its like are part of that"
        case "auxiliary unit":
            return "pooling or data movement: a smaller window, a stride in the convolution instead, fewer Transposes"
        case "reading" | "writing":
            searched = "" if platform == "520" else ", fm_cut='deep_search'"
            return f"data in and out of the chip: fewer channels or rows here{searched}, more dma_bandwidth"
        case "weights":
            narrow = " int4 weights," if platform in ("530", "630", "730") and (node.bits_weight or 0) > 4 else ""
            return f"loading weights:{narrow} fewer channels, pooling before a dense layer, more weight_bandwidth"
        case _:
            return "it runs on the processor, whose time is not part of the estimate"


def _of_multiplications(node: NodeCost, machine: Machine) -> str:
    useful = node.products / (node.mac_cycles * machine.macs)
    parts = planes(node.bits_in or 8, node.bits_weight or 8)
    if parts > 1 and useful * parts >= WASTEFUL:
        return f"16-bit operands take {parts:g} times the multiplications: 8 bits here"
    if useful * parts < WASTEFUL:
        inputs, outputs, columns = GRANULE
        return (
            f"{100 * useful * parts:.0f} % of its multiplications count: input channels in multiples of {inputs},"
            f" output channels of {outputs}, widths of {columns}; single-channel (depthwise) convolutions fill little"
        )
    return "multiplications, well filled: fewer channels, a smaller input, or a stride earlier in the model"
