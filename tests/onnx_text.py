"""Small models written as ONNX text, run on ONNX Runtime before and after a rewrite."""

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from onnx import numpy_helper

from knerex_jax.graph.ir import Model
from knerex_jax.graph.read import read_proto
from knerex_jax.graph.write import to_proto
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import bind, unbind
from knerex_jax.passes.base import Pass, run_passes

TOLERANCE = 1e-5
"""Largest difference between before and after, relative to the range of an output."""


def proto_of(text: str, opset: int = 21, seed: int = 0) -> onnx.ModelProto:
    """Parses `(inputs) => (outputs) <constants> { nodes }`; constants without a value get a random one.

    Float constants are normal; those whose name starts with "v" (a variance) lie in 0.5 to 1.5.
    """
    head = f'<ir_version: 10, opset_import: ["" : {opset}, "custom" : 1]>'
    proto = onnx.parser.parse_model(f"{head}\nnet {text}")
    rng, graph = np.random.default_rng(seed), proto.graph
    made = {t for n in graph.node for t in n.output} | {t.name for t in graph.initializer}
    for value in [v for v in graph.value_info if v.name not in made]:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        drawn = rng.uniform(0.5, 1.5, shape) if value.name.startswith("v") else rng.normal(size=shape)
        graph.initializer.append(numpy_helper.from_array(drawn.astype(np.float32), value.name))
    kept = [v for v in graph.value_info if v.name in made]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    return proto


def model_of(text: str, opset: int = 21, seed: int = 0) -> Model:
    """The bound model of a text, not simplified."""
    return bind(read_proto(proto_of(text, opset, seed)).model, REGISTRY, opset)


def case_id(value: object) -> str:
    """Name of the pass in a case table."""
    return getattr(value, "__name__", "")


def ops_of(model: Model) -> str:
    """Its operators in order."""
    return " ".join(n.op_type for n in model.graph.nodes)


def random_inputs(model: Model, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    types = {t: model.graph.types[t] for t in model.graph.inputs}
    return {t: np.asarray(2 * rng.normal(size=ty.shape), ty.dtype) for t, ty in types.items()}


def run_on_ort(proto: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    wanted = {i.name for i in session.get_inputs()}
    outputs = session.run(names, {t: v for t, v in inputs.items() if t in wanted})
    return {t: np.asarray(v) for t, v in zip(names, outputs, strict=True)}


def assert_equal_outputs(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> None:
    assert list(before) == list(after)
    for name, expected in before.items():
        assert after[name].shape == expected.shape and after[name].dtype == expected.dtype, name
        span = float(np.ptp(expected)) or float(np.abs(expected).max()) or 1.0
        error = float(np.abs(expected.astype(np.float64) - after[name]).max()) / span
        assert error <= TOLERANCE, f"{name}: {error}"


def assert_same_function(before: Model, after: Model) -> None:
    """Both are valid ONNX and give the same outputs."""
    protos = [to_proto(unbind(m, REGISTRY)) for m in (before, after)]
    for proto in protos:
        onnx.checker.check_model(proto, full_check=True)
    inputs = random_inputs(before)
    assert_equal_outputs(*(run_on_ort(p, inputs) for p in protos))


def assert_rewrites(text: str, passes: Pass | tuple[Pass, ...], expected: str) -> Model:
    """The passes turn the text into these operators without changing the function."""
    before = model_of(text)
    after = run_passes(before, passes if isinstance(passes, tuple) else (passes,))
    assert ops_of(after) == expected
    assert_same_function(before, after)
    assert {o for n in after.graph.nodes for o in n.origin} <= {n.name for n in before.graph.nodes}
    return after


def assert_leaves(text: str, apply: Pass) -> None:
    """The pass gives the same object back."""
    model = model_of(text)
    assert apply(model) is model
