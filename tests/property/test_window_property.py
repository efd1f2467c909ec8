"""poolsum and maxpool: windows, whole axes, padding, and the multiplier of every count."""

from typing import Any

from helpers import Net
from hypothesis import given
from hypothesis import strategies as st
from property.corners import Corner, assert_exact, corners, few

from knerex_jax.ops import REGISTRY
from knerex_jax.quantize.structure import analyse

WINDOWS: tuple[dict[str, Any], ...] = (
    dict(kernel_shape=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0)),
    dict(kernel_shape=(3, 3), strides=(2, 1), pads=(1, 1, 1, 1)),
    dict(kernel_shape=(3, 2), strides=(2, 2), pads=(1, 0, 0, 1), ceil_mode=1),
    dict(kernel_shape=(6, 7), strides=(1, 1), pads=(0, 0, 0, 0)),
)


@few(5)
@given(corners(), st.sampled_from(WINDOWS), st.booleans(), st.booleans())
def test_pool(corner: Corner, window: dict[str, Any], average: bool, include: bool):
    net = Net({"x": (1, 4, 6, 7)}, seed=corner.seed)
    z = net.batch_norm("x")
    extra = {"count_include_pad": int(include)} if average else {}
    y = net.add("AveragePool" if average else "MaxPool", z, dilations=(1, 1), **window, **extra)
    model = net.model(net.batch_norm(y))
    assert_exact(model, corner)
    assert not analyse(model, corner.target, REGISTRY).islands


@few(7)
@given(
    corners(),
    st.sampled_from(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "GlobalAveragePool", "GlobalMaxPool")),
    st.sampled_from(((2, 3), (-1,), (1,), (0, 2))),
)
def test_reduction(corner: Corner, op: str, axes: tuple[int, ...]):
    net = Net({"x": (1, 4, 3, 7)}, seed=corner.seed)
    y = net.add(op, net.batch_norm("x"), **({} if op.startswith("Global") else {"axes": axes}))
    model = net.model(net.batch_norm(y))
    assert_exact(model, corner)
    assert not analyse(model, corner.target, REGISTRY).islands
