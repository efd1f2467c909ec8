"""A program cut into its instructions: each reads quantized float values instead of what others computed."""

import msgspec
import numpy as np

from knerex_jax.program.primitives import Island
from knerex_jax.program.program import Constants, Program

_MADE = "alone:"


def made_alone(tensor: str) -> str:
    """Name, in a program of `cut_program`, of what the instruction alone makes of a tensor."""
    return _MADE + tensor


def cut_program(program: Program, constants: Constants) -> tuple[Program, dict[str, dict[str, np.ndarray]]]:
    """A program whose inputs are all tensors that some instruction reads, and whose outputs are all that are made.

    Args:
      program: the program to cut.
      constants: its integers.

    Returns:
      The program; its outputs are called `made_alone(tensor)`. And its integers.
    """
    made = [t for i in program.instructions for t in i.outputs]
    read = dict.fromkeys((*program.inputs, *(t for i in program.instructions for t in i.inputs)))
    instructions = []
    for i in program.instructions:
        changed = msgspec.structs.replace(i, output=made_alone(i.output))
        if isinstance(changed, Island):
            changed = msgspec.structs.replace(changed, more=tuple(t and made_alone(t) for t in changed.more))
        instructions.append(changed)

    def twice(held: tuple) -> tuple:
        known = dict(held)
        return (*held, *((made_alone(t), known[t]) for t in made if t in known))

    cut = msgspec.structs.replace(
        program, inputs=tuple(read), outputs=tuple(made_alone(t) for t in made), instructions=tuple(instructions),
        tensors=twice(program.tensors), plain=twice(program.plain),
    )  # fmt: skip
    boundaries = {f"tensor:{made_alone(t)}": dict(constants[f"tensor:{t}"]) for t in made if t in program.tensor}
    return cut, {**{k: dict(v) for k, v in constants.items()}, **boundaries}
