"""Widths as they can be asked for; nothing here knows models or operators, so a command line is read without them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from knerex_jax.errors import ConfigError
from knerex_jax.targets.spec import Target

BITS = {"int4": 4, "int8": 8, "int16": 15}
"""Width names -> significant bits."""

WIDTH_OF = {bits: name for name, bits in BITS.items()}

Side = Literal["data", "weight"]
Mix = Literal["mix light", "mix balance", "mixbw"]
MIXES: tuple[Mix, ...] = ("mix light", "mix balance", "mixbw")


@dataclass(frozen=True)
class WidthRequest:
    """What the user asked for, in significant bits.

    Attributes:
      constants: of constants that are operands; the widest data of a platform that has no such width.
      cpu: of what the nodes beside the NPU make; None: as `data`.
      nodes: node -> width of its outputs, before that of the network, the CPU and constants; outputs of the model
        keep theirs. A node with a fused activation means the activation's output.
      weight_nodes: weighted node -> width of its weights.
    """

    data: int = 8
    weights: int = 8
    model_in: int = 8
    model_out: int = 8
    constants: int = 15
    cpu: int | None = None
    nodes: Mapping[str, int] = field(default_factory=dict, hash=False)
    weight_nodes: Mapping[str, int] = field(default_factory=dict, hash=False)


def check_request(request: WidthRequest, target: Target) -> None:
    """An impossible combination is an error that says why.

    Raises:
      ConfigError: the platform has no such width.
    """
    for option, bits, allowed in (
        ("datapath_bitwidth_mode", request.data, target.data_bits),
        ("model_in_bitwidth_mode", request.model_in, target.data_bits),
        ("model_out_bitwidth_mode", request.model_out, target.data_bits),
        ("weight_bitwidth_mode", request.weights, target.weight_bits),
        ("cpu_node_bitwidth_mode", request.data if request.cpu is None else request.cpu, target.data_bits),
    ):
        if bits not in allowed:
            raise ConfigError(
                f"platform {target.name} has no {WIDTH_OF[bits]} for this option",
                where=f"{option}={WIDTH_OF[bits]!r}",
                fix=f"use {' or '.join(WIDTH_OF[b] for b in allowed)}, or another platform",
            )


def constant_bits(request: WidthRequest, target: Target) -> int:
    """The width of constant operands as it applies on a platform."""
    return request.constants if request.constants in target.data_bits else max(target.data_bits)
