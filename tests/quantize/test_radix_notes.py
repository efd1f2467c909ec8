"""The plan says where a radix was clamped, and only where that costs something."""

import pytest
from helpers import Net, samples
from planning import plan

from knerex_jax.graph.ir import Model
from knerex_jax.quantize.planner import Planned

SHAPE = (1, 4, 6, 6)
LARGEST_RADIX = 31


def scaled(net: Net, factor: float) -> str:
    """The input times a factor, in a tensor with a format of its own."""
    t = net.batch_norm("x")
    for constant, value in zip(net.nodes[-1].inputs[1:3], (factor, 0.0), strict=True):
        net.constants[constant][:] = value
    return t


def planned(model: Model) -> Planned:
    return plan(model, samples(model, 8), "720", "int16")


def small_operand(factor: float, *, read_again: bool) -> tuple[Planned, str]:
    """A plan in which x times a small factor is added to x, and that operand."""
    net = Net({"x": SHAPE})
    small = scaled(net, factor)
    outputs = [net.add("Add", "x", small)]
    if read_again:
        outputs.append(net.add("Relu", small))
    return planned(net.model(*outputs)), small


def clamped(made: Planned) -> list[str]:
    return [n.where for n in made.plan.notes if "clamped" in n.applied]


def test_operand_that_vanishes_in_the_sum_gets_no_note():
    made, small = small_operand(1e-9, read_again=False)
    assert (made.plan.formats[small].radix == LARGEST_RADIX).all()
    assert clamped(made) == []


def test_operand_that_something_else_reads_gets_one():
    made, small = small_operand(1e-9, read_again=True)
    assert small in clamped(made)


@pytest.mark.parametrize(("share", "expected"), [(1e-3, True), (1e-9, False)])
def test_operand_that_counts_in_the_sum_gets_one(share, expected):
    """Both operands are small; only beside one that is much larger does the other vanish."""
    net = Net({"x": SHAPE})
    small, large = scaled(net, 1e-9), scaled(net, 1e-9 / share)
    made = planned(net.model(net.add("Add", large, small)))
    assert (small in clamped(made)) is expected


def test_zeros_get_no_note():
    net = Net({"x": SHAPE})
    zeros = scaled(net, 0.0)
    made = planned(net.model(net.add("Sigmoid", zeros)))
    assert (made.plan.formats[zeros].radix < LARGEST_RADIX).all()
    assert clamped(made) == []
