"""Planned graph + plan -> the fixed program and its integer constants."""

from collections.abc import Mapping

import numpy as np

from knerex_jax.graph.ir import Model
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import op_of
from knerex_jax.ops.build import ProgramView
from knerex_jax.ops.island import island_program
from knerex_jax.ops.opdef import OpDef
from knerex_jax.program.primitives import Instruction
from knerex_jax.program.program import CodeTensor, PlainTensor, Program
from knerex_jax.quantize.plan import QuantPlan
from knerex_jax.quantize.structure import is_plain
from knerex_jax.targets.spec import Target


def assemble(
    model: Model, plan: QuantPlan, target: Target, registry: Mapping[str, OpDef] = REGISTRY
) -> tuple[Program, dict[str, dict[str, np.ndarray]]]:
    """Builds the program of a planned graph.

    Two plans that differ only in radix and scale give equal (and equally hashed) programs with different constants.

    Raises:
      UnsupportedOpError: an operator has neither an integer rule nor a reference to run on the host.
      PlanError: a shift is out of range; names the node.
    """
    graph = model.graph
    view = ProgramView(
        model=model,
        target=target,
        registry=registry,
        formats=plan.formats,
        weight_bits=plan.weight_bits,
        fused=plan.fused,
    )
    swallowed = set(plan.fused.values())
    instructions: list[Instruction] = []
    constants: dict[str, dict[str, np.ndarray]] = {}
    for node in graph.nodes:
        if node.name in swallowed:
            continue
        rule = op_of(node, registry).to_program
        if node.name in plan.islands or is_plain(node, model):
            rule = island_program
        assert rule is not None, f"{node.name} has no integer rule and is no island"
        for instruction, integers in rule(node, view):
            instructions.append(instruction)
            constants[instruction.name] = dict(integers)
    tensors, plain = {}, {}
    for t in (*graph.inputs, *(t for i in instructions for t in i.outputs)):
        if t not in plan.formats:
            plain[t] = PlainTensor(graph.shape(t), graph.types[t].dtype)
            continue
        f = plan.formats[t]
        tensors[t] = CodeTensor(graph.shape(t), f.bits, f.axis)
        constants[f"tensor:{t}"] = {
            "factor": f.factor.astype(np.float32),
            "inverse": (1.0 / f.factor).astype(np.float32),
        }
    program = Program(
        name=graph.name, platform=plan.platform, inputs=graph.inputs, outputs=graph.outputs,
        instructions=tuple(instructions), tensors=tuple(tensors.items()), plain=tuple(plain.items()),
    )  # fmt: skip
    return program, constants
