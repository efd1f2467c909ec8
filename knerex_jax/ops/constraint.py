"""Facts about scales that operators state and the planner solves. Section 2 of the arithmetic contract.

Scales are unknowns, one per channel of every tensor; facts tie them together before any number is chosen.
"""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Own:
    """The output has a scale of its own, per channel along `axis` (None: per layer)."""

    output: str
    axis: int | None


@dataclass(frozen=True)
class Layer:
    """Scale and radix of the tensor are per layer."""

    tensor: str


@dataclass(frozen=True)
class Same:
    """Inputs and output share one scale per channel, aligned as in ONNX broadcasting.

    `within` states that the output's values never leave the range of the inputs (pooling, clipping).
    """

    output: str
    inputs: tuple[str, ...]
    within: bool = False


@dataclass(frozen=True)
class Moved:
    """Data movement: where the channels of the output come from.

    Attributes:
      axis: channel axis of the output (None: per layer).
      links: int [L, 3]: output channel, operand number, channel of that operand. Linked channels share a scale; an
        output channel without a link holds only zeros.
      one_to_one: the output holds exactly the values of its one input, so their ranges are the same.
    """

    output: str
    inputs: tuple[str, ...]
    axis: int | None
    links: np.ndarray = field(compare=False)
    one_to_one: bool = False


@dataclass(frozen=True)
class Product:
    """The output's scale is the product of its operands' scales, not renormalised."""

    output: str
    inputs: tuple[str, str]


@dataclass(frozen=True)
class Bound:
    """|values| of the tensor never exceed `limit` (real units), whatever calibration saw."""

    tensor: str
    limit: float


@dataclass(frozen=True)
class Masked:
    """Only a softmax reads this sum, so if one of the operands is never positive, it may be a mask over the other.

    Values far below the scores all count as 0 there; neither mask nor sum need a range that reaches them.
    """

    output: str
    operands: tuple[str, str]


Constraint = Own | Layer | Same | Moved | Product | Bound | Masked
