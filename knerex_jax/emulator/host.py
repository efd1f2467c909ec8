"""Islands of a program inside a compiled function: one call of the host per step, one sample after the other."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import Array

from knerex_jax.fixedpoint.arith import code_dtype
from knerex_jax.program.island import run_island
from knerex_jax.program.primitives import Island
from knerex_jax.program.program import Program

_NARROW = {"int64": "int32", "uint64": "uint32", "float64": "float32"}


def device_dtype(dtype: str) -> np.dtype:
    """Element type of a plain tensor inside a compiled function, where nothing has 64 bits."""
    return np.dtype(_NARROW.get(dtype, dtype))


def island_outputs(i: Island, program: Program, params: Mapping[str, Any], values: Mapping[str, Array]) -> list[Array]:
    """The outputs of an island, as codes or plain arrays.

    Args:
      i: what runs.
      program: the program it belongs to.
      params: from `prepare`: "inverse", "factor" and "constant", each a dictionary by tensor.
      values: the tensors it reads.
    """
    tree = {"operand": {t: values[t] for t in i.inputs}, **params}
    leaves, structure = jax.tree.flatten(tree)
    ranks = [leaf.ndim for leaf in leaves]
    kinds = {t: held.dtype for t, held in program.plain} | dict(i.constant_types)
    bits = {t: program.tensor[t].bits for t in i.outputs if t in program.tensor}
    made = [
        jax.ShapeDtypeStruct(
            program.shapes[t], code_dtype(bits[t]) if t in bits else device_dtype(program.exact[t].dtype)
        )
        for t in i.outputs
    ]

    def one(arrays: list[np.ndarray]) -> list[np.ndarray]:
        held = jax.tree.unflatten(structure, arrays)
        operands = {**held["operand"], **held["constant"]}
        operands = {t: v.astype(kinds[t]) if t in kinds else v for t, v in operands.items()}
        results = run_island(i, operands, held["inverse"], held["factor"], bits)
        return [r.astype(m.dtype).reshape(m.shape) for r, m in zip(results, made, strict=True)]

    def run(*batched: Any) -> list[np.ndarray]:
        arrays = [np.asarray(a) for a in batched]
        leads = [a.shape[: a.ndim - rank] for a, rank in zip(arrays, ranks, strict=True)]
        lead = np.broadcast_shapes(*leads)
        arrays = [np.broadcast_to(a, (*lead, *a.shape[a.ndim - r :])) for a, r in zip(arrays, ranks, strict=True)]
        samples = [one([a[place] for a in arrays]) for place in np.ndindex(*lead)]
        return [np.stack([s[k] for s in samples]).reshape(*lead, *m.shape) for k, m in enumerate(made)]

    return jax.pure_callback(run, made, *leaves, vmap_method="expand_dims")
