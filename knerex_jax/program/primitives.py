"""The instructions of the fixed program: the waist between many operators and many consumers.

Each mirrors a numbered rule of section 3 of the arithmetic contract. An instruction holds only what is static (names,
geometry, widths); its integers (weights, shifts, multipliers, tables) are arrays under `constants[name]`, so that a
new plan is new data for the same program. Frozen and hashable: a program can be a static argument of `jax.jit`.

Tensors have the shape of one sample, the model's batch axis (of size 1) included. Constants "along the channel axis"
are int32 arrays of length C or 1 that broadcast along `axis` of the output unless stated otherwise.
"""

from typing import ClassVar, Literal

import msgspec

Shape = tuple[int, ...]


class Window(msgspec.Struct, frozen=True):
    """Sliding window over the trailing (spatial) axes; one entry per spatial axis.

    Attributes:
      pads: (begin, end) per axis; end includes what ceil mode adds.
    """

    kernel: Shape
    strides: Shape
    dilations: Shape
    pads: tuple[tuple[int, int], ...]


class Primitive(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What all instructions share.

    Attributes:
      name: unique in the program; key of its constants.
      inputs: names of the code tensors it reads.
      output: name of the code tensor it makes.
      nodes: names of the graph nodes it stands for.
      bits: width of the output codes (8 or 15).
      axis: channel axis of the output, along which per-channel constants run; None when all are per layer.
    """

    rule: ClassVar[str]
    name: str
    inputs: tuple[str, ...]
    output: str
    nodes: tuple[str, ...]
    bits: int
    axis: int | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """All tensors it makes."""
        return (self.output,)


Act = Literal["none", "relu", "clip", "leaky", "hard_swish"]


class Mac(Primitive, frozen=True, kw_only=True, tag="mac"):
    """acc = sum w*x; p = sat_psum(shr(acc, n1)); p = sat_psum(p + bias); act; y = sat_out(shr(p * m, n2)).

    Constants: weight (conv [O, I/group, *kernel]; conv_transpose [I, O/group, *kernel]; dense [O, I], contracted with
    the last axis of x; diagonal [C] along `axis`), bias, n1, m, n2 [O]; clip: lo, hi [O]; leaky: slope [O] (or [1])
    and slope_shift [O] (or [1]). Without post_multiplier m is absent and means 1.
    weight_radix and weight_scale [O] say what the weight codes mean; nothing needs them to run.
    """

    rule: ClassVar[str] = "mac"
    kind: Literal["conv", "conv_transpose", "dense", "diagonal"]
    window: Window | None = None
    output_padding: Shape = ()
    group: int = 1
    x_bits: int
    weight_bits: int
    psum_bits: int
    post_multiplier: bool
    act: Act = "none"


class Activate(Primitive, frozen=True, kw_only=True, tag="activate"):
    """y = sat_out(shr(act(x), n)). Constants: n; clip: lo, hi; leaky: slope, slope_shift."""

    rule: ClassVar[str] = "act"
    x_bits: int
    act: Literal["relu", "clip", "leaky", "neg", "abs"]


class Align(Primitive, frozen=True, kw_only=True, tag="align"):
    """Brings operands to one radix and combines them. Operands broadcast against each other as in ONNX.

    Shared scales (free = False): operand k enters as shr(x_k, n[k]), n[k] >= -16; combined, y = sat_out(shr(., n_out)).
    Free scales: operand k enters as shr(x_k * m[k], n[k]) at radix r_y + 8 and n_out = 8.
    Intermediate values saturate to psum_bits. `signs` (+1 or -1 per operand) turn add into subtract.
    Constants: n [K, C], n_out [C]; free: m [K, C].
    """

    rule: ClassVar[str] = "align"
    op: Literal["add", "max", "min"]
    signs: Shape
    free: bool
    x_bits: Shape
    psum_bits: int


class Mul(Primitive, frozen=True, kw_only=True, tag="mul"):
    """y = sat_out(shr(a * b, n)), operands broadcast. Constants: n."""

    rule: ClassVar[str] = "mul"
    x_bits: Shape


class MatMul(Primitive, frozen=True, kw_only=True, tag="matmul"):
    """Product of two activations as in ONNX MatMul: exact sum, then y = sat_out(shr(sum, n)). Constants: n."""

    rule: ClassVar[str] = "matmul"
    x_bits: Shape


class PoolSum(Primitive, frozen=True, kw_only=True, tag="poolsum"):
    """Sum over a window (or whole axes, kept with size 1), then y = sat_out(shr(sum * m, n + e)).

    Constants: n [C]; mean: m and e, both shaped like the spatial output ([oh, ow]; all ones axes when every output
    pixel counts the same number of inputs). A plain sum has mean = False: y = sat_out(shr(sum, n)).
    """

    rule: ClassVar[str] = "poolsum"
    window: Window | None = None
    axes: Shape = ()
    mean: bool = True
    x_bits: int


class MaxPool(Primitive, frozen=True, kw_only=True, tag="maxpool"):
    """Maximum over a window (padding never wins) or whole axes (kept), y = sat_out(shr(., n)). Constants: n.

    With `least` the minimum over whole axes instead.
    """

    rule: ClassVar[str] = "maxpool"
    window: Window | None = None
    axes: Shape = ()
    least: bool = False
    x_bits: int


class Move(Primitive, frozen=True, kw_only=True, tag="move"):
    """Codes change place, then y = sat_out(shr(., shift)).

    kind and args: reshape (shape,); transpose (permutation,); expand (shape,); concat ((axis,),);
    pad (begins, ends), code 0; slice (starts, stops, steps), one entry per axis, stops exclusive, steps may be negative
    (stop -1 then means "through index 0"); gather (axes, places along the first axis, along the second, ...).

    Constants: n [C] after the move along `axis`; where the radix must change before the move (the channels mix),
    n_in [K, C_k] along `in_axes[k]` of operand k instead (rows as long as the widest operand; a narrower one uses the
    first C_k). Exactly one of the two is present.
    """

    rule: ClassVar[str] = "move"
    kind: Literal["reshape", "transpose", "expand", "concat", "pad", "slice", "gather"]
    args: tuple[Shape, ...]
    x_bits: Shape
    in_axes: tuple[int | None, ...] | None = None


class Interp(Primitive, frozen=True, kw_only=True, tag="interp"):
    """Separable interpolation: y = sat_out(shr(sum over taps of weight * x, n)), one exact sum over all `axes`.

    Constants: index{k} and weight{k} int32 [size of the output along axes[k], taps]; n.
    """

    rule: ClassVar[str] = "interp"
    axes: Shape
    x_bits: int


class Const(Primitive, frozen=True, kw_only=True, tag="const"):
    """A constant as an operand. Constants: codes, shaped like the output."""

    rule: ClassVar[str] = "const"


class Lookup(Primitive, frozen=True, kw_only=True, tag="lookup"):
    """Rows of a table of codes: y = take(codes, x, at), x a plain tensor of indices; negative ones count from the end.

    Constants: codes, in the format of the output.
    """

    rule: ClassVar[str] = "lookup"
    at: int


class Island(Primitive, frozen=True, kw_only=True, tag="island"):
    """An operator without an integer rule, on the host: codes are dequantized, results quantized. Section 3, rule 10.

    Inputs and outputs may be code tensors or plain ones (integers, booleans), which pass through exactly.

    Attributes:
      node: the ONNX node, serialised; its inputs are names of tensors of the program or of constants ("" if absent).
      opset: version of the standard operators it follows.
      digest: of the routine that computes it (`program.island.routine_digest`).
      more: its further outputs ("" where one is not wanted).
      constant_types: (constant, element type) of its constant inputs.

    Constants: one array per constant input, under its name.
    """

    rule: ClassVar[str] = "island"
    node: bytes
    opset: int
    digest: str
    more: tuple[str, ...] = ()
    constant_types: tuple[tuple[str, str], ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """All tensors it makes."""
        return tuple(t for t in (self.output, *self.more) if t)


class Table(Primitive, frozen=True, kw_only=True, tag="table"):
    """y = table[x - lowest code of x]. Constants: table, 256 entries for 8-bit x, 32,768 for 15-bit x."""

    rule: ClassVar[str] = "table"
    x_bits: int


Instruction = (
    Mac | Activate | Align | Mul | MatMul | PoolSum | MaxPool | Move | Interp | Const | Lookup | Island | Table
)
