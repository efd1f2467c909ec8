"""What the planner must know of a platform."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Target:
    """Arithmetic of one platform of the family.

    Attributes:
      name: "520", "530", "630", "720" or "730".
      data_bits: permitted widths of data tensors, in significant bits (15 is the published int16).
      weight_bits: permitted widths of weights.
      per_channel_radix: radix per channel (false: one radix per layer, only the scale is per channel).
      post_multiplier: one multiplier per output channel behind the accumulator (assumed, see ARITHMETIC.md).
      narrow_psum: partial sums have 16 bits (false: 32, or 48 if an operand has 15 bits).
      free_add: Add and Sub rescale each operand by a multiplier (false: operands share one scale).
      assumed: names of the fields above that no public source states.
    """

    name: str
    data_bits: tuple[int, ...]
    weight_bits: tuple[int, ...]
    per_channel_radix: bool = True
    post_multiplier: bool = True
    narrow_psum: bool = False
    assumed: tuple[str, ...] = ("post_multiplier", "per_channel_radix")

    @property
    def free_add(self) -> bool:
        return self.post_multiplier

    def psum_bits(self, *operand_bits: int) -> int:
        """Width of partial sums and bias for operands of these widths."""
        if self.narrow_psum:
            return 16
        return 48 if max(operand_bits) == 15 else 32
