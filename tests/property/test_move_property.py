"""move: every kind of it, channels that stay, change their axis, or mix."""

import numpy as np
from helpers import Net
from hypothesis import given
from hypothesis import strategies as st
from property.corners import Corner, assert_exact, corners, few

from knerex_jax.graph.ir import TensorType
from knerex_jax.ops import REGISTRY
from knerex_jax.passes import moves
from knerex_jax.passes.base import run_passes
from knerex_jax.quantize.structure import analyse

MOVES = {
    "Reshape": dict(shape=(1, 8, 12)),
    "Reshape mixing": dict(shape=(1, 3, -1, 2)),
    "Flatten": dict(axis=2),
    "Transpose": dict(perm=(0, 2, 3, 1)),
    "Pad": dict(pads=(0, 1, 0, 2, 0, 2, 1, 0)),
    "Pad negative": dict(pads=(0, -1, 1, 0, 0, 1, -1, 0)),
    "Slice": dict(starts=(3, 0), ends=(-100, 2), axes=(1, 2), steps=(-2, 1)),
    "Expand": dict(shape=(2, 1, 4, 4, 6)),
    "Unsqueeze": dict(axes=(2,)),
    "Identity": dict(),
    "Tile": dict(repeats=(1, 2, 1, 3)),
    "DepthToSpace": dict(blocksize=2),
    "DepthToSpace columns": dict(blocksize=2, mode="CRD"),
    "SpaceToDepth": dict(blocksize=2),
    "Resize": dict(sizes=(1, 4, 7, 3), mode="nearest"),
    "Resize corners": dict(sizes=(1, 4, 5, 9), mode="nearest", coordinate_transformation_mode="align_corners"),
}


@few(6)
@given(corners(), st.sets(st.sampled_from(tuple(MOVES)), min_size=4, max_size=4))
def test_move(corner: Corner, kinds: set[str]):
    """Several movements of one tensor, each to formats of its own."""
    net = Net({"x": (1, 4, 4, 6)}, seed=corner.seed)
    z = net.batch_norm("x")
    ys = [net.add(kind.split()[0], z, **MOVES[kind]) for kind in sorted(kinds)]
    inner = net.add("Transpose", ys[0], perm=tuple(range(len(net.types[ys[0]].shape)))[::-1])
    model = run_passes(net.model(*ys[1:], inner), (moves.tile_to_gather, moves.blocks_to_transpose))
    assert_exact(model, corner, "move")
    assert not analyse(model, corner.target, REGISTRY).islands


@few(5)
@given(corners(), st.integers(0, 3))
def test_concat(corner: Corner, axis: int):
    """Operands of other formats, widths and (along the axis) sizes; formats run along the axis or across it."""
    net = Net({"a": (1, 4, 3, 4), "b": (1, 4, 3, 4)}, seed=corner.seed)
    a, b = net.batch_norm("a"), net.batch_norm("b")
    y = net.add("Concat", a, "b", b, axis=axis)
    assert_exact(net.model(net.add("Transpose", y, perm=(0, 1, 3, 2)), net.add("Relu", y)), corner, "move")


@few(4)
@given(corners(), st.integers(1, 3), st.lists(st.integers(-3, 2), min_size=1, max_size=5))
def test_gather(corner: Corner, axis: int, indices: list[int]):
    net = Net({"x": (1, 3, 3, 3)}, seed=corner.seed)
    z = net.batch_norm("x")
    net.constants["at"], net.types["at"] = np.array(indices), TensorType("int64", (len(indices),))
    y = net.add("Gather", z, "at", axis=axis)
    assert_exact(net.model(net.add("Transpose", y, perm=(0, 2, 1, 3))), corner, "move")


@few(5)
@given(
    corners(),
    st.sampled_from(("linear", "cubic")),
    st.sampled_from(("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")),
    st.sampled_from(((12, 5), (2, 9), (1, 1))),
)
def test_interpolation(corner: Corner, mode: str, coordinates: str, size: tuple[int, int]):
    net = Net({"x": (1, 3, 4, 5)}, seed=corner.seed)
    z = net.batch_norm("x")
    y = net.add("Resize", z, sizes=(1, 3, *size), mode=mode, coordinate_transformation_mode=coordinates)
    assert_exact(net.model(net.batch_norm(y)), corner, "interp")
