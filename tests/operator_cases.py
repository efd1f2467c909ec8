"""One-operator models as ONNX text, and what our float rules and writing have to make of them."""

from dataclasses import dataclass

import jax
import numpy as np
import onnx
from onnx_text import assert_equal_outputs, proto_of, random_inputs, run_on_ort

from knerex_jax.graph.ir import Model
from knerex_jax.graph.read import read_proto
from knerex_jax.graph.write import to_proto
from knerex_jax.lowering.float import lower_float
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import bind, unbind


@dataclass(frozen=True)
class Case:
    """A model text and the opset it is written in."""

    name: str
    text: str
    opset: int = 21
    scale: float = 1.0


def one(
    name: str, op: str, x: str = "1,3,6,8", y: str = "...", extra: str = "", opset: int = 21, **more: float
) -> Case:
    """A node `op` that maps x to y, with constants named in `extra`; the shape of y is left to be inferred."""
    outputs = "y" if y == "..." else y
    return Case(
        name,
        f"(float[{x}] x) => ({', '.join(f'float[] {t}' for t in outputs.split(','))}) <{extra}> {{ {op} }}",
        opset,
        **more,
    )


def bound(case: Case) -> Model:
    """The bound model of a case."""
    return bind(read_proto(proto_of(case.text, case.opset)).model, REGISTRY, case.opset)


def run_here(model: Model, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    fn, params = lower_float(model)
    with jax.enable_x64(True):
        made = jax.jit(fn)(params, inputs)
    return {t: np.asarray(made[t]) for t in model.graph.outputs}


def assert_equals_onnx_runtime(case: Case) -> None:
    """Outputs, shapes and element types are those of ONNX Runtime."""
    model = bound(case)
    inputs = {t: (v * case.scale).astype(v.dtype) for t, v in random_inputs(model).items()}
    expected = run_on_ort(proto_of(case.text, case.opset), inputs)
    assert_equal_outputs(expected, run_here(model, inputs))
    for name, array in expected.items():
        assert model.graph.types[name].shape == array.shape and model.graph.types[name].dtype == array.dtype.name


def assert_written_as_an_equal_model(case: Case) -> None:
    """The canonical form of a case is written as valid ONNX of the same function."""
    model = bound(case)
    written = to_proto(unbind(model, REGISTRY))
    onnx.checker.check_model(written, full_check=True)
    inputs = random_inputs(model)
    assert_equal_outputs(run_on_ort(proto_of(case.text, case.opset), inputs), run_on_ort(written, inputs))
