"""Toy models and plans for the tests of the oracle."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .executor import run_oracle


def fmt(radix, scale=1.0, bits=8, axis=None):
    """A plan entry; scalars make a per-layer format."""
    radix, scale = np.atleast_1d(radix).tolist(), np.float32(np.atleast_1d(scale)).astype(float).tolist()
    return {"bits": bits, "axis": axis, "radix": radix, "scale": scale}


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), name=f"{op}_{outputs.split()[0]}", **attributes)


def make_model(nodes, inputs, outputs, constants):
    """A checked model with all shapes stated; inputs: name -> shape; all float32."""
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs.split()]
    graph = helper.make_graph(nodes, "toy", values, results, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def make_plan(tensors, platform="720", fused=None, weight_bits=None):
    return {
        "arith_version": 1,
        "platform": platform,
        "post_multiplier": platform != "520",
        "tensors": tensors,
        "weight_bits": weight_bits or {},
        "fused": fused or {},
    }


def run_one(nodes, inputs, constants, tensors, **plan):
    """Runs one sample; the inputs are given as codes, so that the sum can be followed by hand."""
    reals = {}
    for name, codes in inputs.items():
        entry = tensors[name]
        reals[name] = np.float32(np.array(codes) / (entry["scale"][0] * 2.0 ** entry["radix"][0]))
    model = make_model(nodes, {name: x.shape for name, x in reals.items()}, " ".join(nodes[-1].output), constants)
    result = run_oracle(model, make_plan(tensors, **plan), reals)
    for name, codes in inputs.items():
        np.testing.assert_array_equal(result.codes[name].reshape(-1), np.reshape(codes, -1))
    return result


def codes_of(result, name="y"):
    return result.codes[name].reshape(-1).tolist()
