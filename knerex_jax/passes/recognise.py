"""Rewrites that find an operator in its spelled-out form, before its constants are folded into something else."""

import math
from dataclasses import dataclass

import numpy as np

from knerex_jax.graph.ir import Node
from knerex_jax.passes.base import GraphBuilder, rewrite


@dataclass(frozen=True)
class Factors:
    """A product: constant * tensors; `nodes` make it and are read by nothing else, apart from the outermost."""

    constant: float
    tensors: tuple[str, ...]
    nodes: tuple[Node, ...]


def scalar(b: GraphBuilder, tensor: str) -> float | None:
    """The value of a constant with one element."""
    value = b.constant(tensor)
    return float(value.item()) if value is not None and value.size == 1 else None


def factors_of(b: GraphBuilder, node: Node | None) -> Factors | None:
    """Takes a tree of multiplications, and divisions by constants, apart; None if the node is neither."""
    if node is None or not _is_product(b, node):
        return None
    constant, tensors, nodes = 1.0, [], [node]
    for i, t in enumerate(node.inputs):
        value = scalar(b, t)
        if value is not None:
            constant *= 1 / value if node.op_type == "Div" and i == 1 else value
        elif (held := factors_of(b, b.private_producer(t, "Mul", "Div"))) is not None:
            constant *= held.constant
            tensors += held.tensors
            nodes = [*held.nodes, *nodes]
        else:
            tensors.append(t)
    return Factors(constant, tuple(tensors), tuple(nodes))


def _is_product(b: GraphBuilder, node: Node) -> bool:
    """Whether a Mul or Div of real numbers multiplies, or divides by a constant other than 0."""
    return b.dtype(node.outputs[0]) == "float32" and (node.op_type == "Mul" or bool(scalar(b, node.inputs[1])))


def _keeps_shape(b: GraphBuilder, x: str, node: Node) -> bool:
    """Whether no constant on the way from x to the output of a node broadcasts it."""
    return b.shape(x) == b.shape(node.outputs[0])


def _near(value: float | None, wanted: float) -> bool:
    return value is not None and math.isclose(value, wanted, rel_tol=1e-4)


def _shifted_clip(b: GraphBuilder, tensor: str, x: str | None = None) -> tuple[str, tuple[Node, ...]] | None:
    """The x of a tensor that is Clip(x + 3, 0, 6), and the nodes between; None if it is not."""
    clip = b.private_producer(tensor, "Clip")
    if clip is None or not (clip.attrs.min == 0 and _near(clip.attrs.max, 6)):
        return None
    add = b.private_producer(clip.inputs[0], "Add")
    if add is None:
        return None
    for side in (0, 1):
        if _near(scalar(b, add.inputs[side]), 3) and x in (None, add.inputs[1 - side]):
            return add.inputs[1 - side], (add, clip)
    return None


@rewrite("Div", "Mul")
def spelled_hard_sigmoid(b: GraphBuilder, node: Node) -> None:
    """Finds a hard sigmoid; first those that are multiplied by their operand, which are a hard-swish.

    Before: y = Clip(x + 3, 0, 6) / 6
    After:  y = HardSigmoid(x), alpha 1/6, beta 1/2
    """
    f = factors_of(b, node)
    if f is None or len(f.tensors) != 1 or not _near(f.constant, 1 / 6):
        return
    found = _shifted_clip(b, f.tensors[0])
    if found is not None and _keeps_shape(b, found[0], node):
        emit = b.replace(*found[1], *f.nodes)
        emit("HardSigmoid", found[0], output=node.outputs[0], alpha=float(np.float32(1 / 6)), beta=0.5)


@rewrite("Div", "Mul")
def spelled_hard_swish(b: GraphBuilder, node: Node) -> None:
    """Finds a hard-swish.

    Before: y = x * Clip(x + 3, 0, 6) / 6, or x * HardSigmoid(x) with alpha 1/6 and beta 1/2
    After:  y = HardSwish(x)
    """
    f = factors_of(b, node)
    if f is None or len(f.tensors) != 2:
        return
    for x, other in (f.tensors, f.tensors[::-1]):
        if not _keeps_shape(b, x, node):
            continue
        gate = b.private_producer(other, "HardSigmoid")
        if gate is not None and gate.inputs[0] == x and _near(f.constant, 1):
            if _near(gate.attrs.alpha, 1 / 6) and _near(gate.attrs.beta, 0.5):
                b.replace(gate, *f.nodes)("HardSwish", x, output=node.outputs[0])
                return
        if _near(f.constant, 1 / 6) and (found := _shifted_clip(b, other, x)) is not None:
            b.replace(*found[1], *f.nodes)("HardSwish", x, output=node.outputs[0])
            return


@rewrite("Mul", "Div")
def spelled_gelu(b: GraphBuilder, node: Node) -> None:
    """Finds a GELU.

    Before: y = x * (1 + Erf(x / sqrt(2))) / 2
    After:  y = Gelu(x)
    """
    f = factors_of(b, node)
    if f is None or len(f.tensors) != 2 or not _near(f.constant, 0.5):
        return
    for x, other in (f.tensors, f.tensors[::-1]):
        add = b.private_producer(other, "Add")
        if add is None or not _keeps_shape(b, x, node):
            continue
        for side in (0, 1):
            erf = b.private_producer(add.inputs[1 - side], "Erf")
            if erf is None or not _near(scalar(b, add.inputs[side]), 1):
                continue
            argument = factors_of(b, b.private_producer(erf.inputs[0], "Mul", "Div"))
            if argument is not None and argument.tensors == (x,) and _near(argument.constant, math.sqrt(0.5)):
                b.replace(*argument.nodes, erf, add, *f.nodes)("Gelu", x, output=node.outputs[0])
                return


@rewrite("Sqrt")
def widen_deviation(b: GraphBuilder, node: Node) -> None:
    """Marks what lies between a tensor and its deviation as the inside of a normalisation, which takes 15 bits.

    Before: s = Sqrt(ReduceMean(d * d) + epsilon), d = x - ReduceMean(x)
    After:  the same, all of them wide; likewise with ReduceSum, Pow(d, 2), without epsilon or without the mean
    """
    for held in _towards_square(b, node):
        if not held.wide:
            b.widen(held)


_ON_THE_WAY = ("Add", "ReduceMean", "ReduceSum", "Mul", "Pow", "BatchNormalization", "Reshape")


def _towards_square(b: GraphBuilder, root: Node) -> list[Node]:
    """The nodes from a root back to a square and what is squared; none if there is no square."""
    found, node = [root], root
    while not _is_square(b, node):
        computed = next((t for t in node.inputs if b.constant(t) is None), "")
        step = b.producer(computed, *_ON_THE_WAY)
        if step is None or (step.op_type in ("Mul", "Pow") and not _is_square(b, step)):
            return []
        found.append(step)
        node = step
    centred = b.producer(node.inputs[0], "Sub")
    if centred is not None and (mean := b.producer(centred.inputs[1], "ReduceMean")) is not None:
        found += [centred, mean]
    return found


def _is_square(b: GraphBuilder, node: Node) -> bool:
    if node.op_type == "Pow":
        return scalar(b, node.inputs[1]) == 2
    return node.op_type == "Mul" and node.inputs[0] == node.inputs[1]
