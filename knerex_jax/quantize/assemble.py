"""Planned graph + plan -> the fixed program and its integer constants."""

from collections.abc import Mapping

import numpy as np

from knerex_jax.errors import UnsupportedOpError
from knerex_jax.graph.ir import Model
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.build import ProgramView
from knerex_jax.ops.opdef import OpDef
from knerex_jax.program.primitives import Instruction
from knerex_jax.program.program import CodeTensor, Program
from knerex_jax.quantize.plan import QuantPlan
from knerex_jax.targets.spec import Target


def assemble(
    model: Model, plan: QuantPlan, target: Target, registry: Mapping[str, OpDef] = REGISTRY
) -> tuple[Program, dict[str, dict[str, np.ndarray]]]:
    """Builds the program of a planned graph.

    Two plans that differ only in radix and scale give equal (and equally hashed) programs with different constants.

    Raises:
      UnsupportedOpError: an operator has no fixed-point rule.
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
        rule = registry[node.op_type].to_program
        if rule is None:
            raise UnsupportedOpError(
                f"operator {node.op_type} has no fixed-point rule", where=f"node {node.name}",
                fix="cut the model before this node, or register an OpDef with a to_program rule",
            )  # fmt: skip
        for instruction, integers in rule(node, view):
            instructions.append(instruction)
            constants[instruction.name] = dict(integers)
    tensors = {}
    for t in (*graph.inputs, *(i.output for i in instructions)):
        f = plan.formats[t]
        tensors[t] = CodeTensor(graph.shape(t), f.bits, f.axis)
        constants[f"tensor:{t}"] = {
            "factor": f.factor.astype(np.float32),
            "inverse": (1.0 / f.factor).astype(np.float32),
        }
    program = Program(
        name=graph.name, platform=plan.platform, inputs=graph.inputs, outputs=graph.outputs,
        instructions=tuple(instructions), tensors=tuple(tensors.items()),
    )  # fmt: skip
    return program, constants
