"""align with shared and with free scales, mul, matmul of activations: broadcasting, radices far apart, saturation."""

from helpers import Net
from hypothesis import given
from hypothesis import strategies as st
from property.corners import Corner, assert_exact, corners, few

SECOND = {
    "full": (1, 4, 3, 5),
    "channels": (1, 4, 1, 1),
    "row": (1, 1, 1, 5),
    "low rank": (1, 1, 5),
    "one": (1, 1, 1, 1),
}


def operands(net: Net, second: str, per_channel: bool) -> tuple[str, str]:
    """Two operands that broadcast, the first (and the second where it has its channels) per channel if asked."""
    a = net.batch_norm("a") if per_channel else "a"
    return a, net.batch_norm("b") if per_channel and len(SECOND[second]) == 4 and SECOND[second][1] == 4 else "b"


@few(10)
@given(corners(), st.sampled_from(("Add", "Sub", "Sum", "Max", "Min")), st.sampled_from(tuple(SECOND)), st.booleans())
def test_align(corner: Corner, op: str, second: str, per_channel: bool):
    net = Net({"a": (1, 4, 3, 5), "b": SECOND[second]}, seed=corner.seed)
    a, b = operands(net, second, per_channel)
    more = (a,) if op in ("Sum", "Max", "Min") else ()
    y = net.add(op, *((a, b) if corner.seed % 2 else (b, a)), *more)
    assert_exact(net.model(net.batch_norm(y) if per_channel else y), corner)


@few(4)
@given(corners(), st.sampled_from(tuple(SECOND)), st.booleans())
def test_mul(corner: Corner, second: str, per_channel: bool):
    net = Net({"a": (1, 4, 3, 5), "b": SECOND[second]}, seed=corner.seed)
    y = net.add("Mul", *operands(net, second, per_channel))
    assert_exact(net.model(net.batch_norm(y) if per_channel else y), corner)


@few(4)
@given(corners(), st.sampled_from((((2, 3, 4), (2, 4, 5)), ((1, 2, 3, 4), (4, 2)), ((1, 3), (3, 1)))))
def test_matmul(corner: Corner, shapes: tuple[tuple[int, ...], tuple[int, ...]]):
    """Codes at the limits on both sides: the largest sums there are."""
    net = Net({"a": (1, *shapes[0]), "b": (1, *shapes[1])}, seed=corner.seed)
    assert_exact(net.model(net.add("MatMul", "a", "b")), corner)
