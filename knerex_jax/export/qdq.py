"""`<model>.qdq.onnx`: the scaled model with QuantizeLinear and DequantizeLinear pairs, for tools that read those.

It has the grid of the plan (radices as powers of two, scales folded into constants, integer weights) but computes in
float between the pairs, so it is close to the fixed-point model, not equal; how close is measured and written into it.
15-bit codes are int16 there, which saturates later than the NPU does.
"""

from collections.abc import Mapping

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from knerex_jax.emulator.run import dequantize
from knerex_jax.errors import UnsupportedOpError
from knerex_jax.export.tape import narrowest
from knerex_jax.fixedpoint.qformat import QFormat
from knerex_jax.graph.write import to_proto
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import unbind
from knerex_jax.ops.opdef import OpDef
from knerex_jax.ort_session import KEEPS_INT8, REFUSALS, open_session
from knerex_jax.quantize.planner import Planned
from knerex_jax.quantize.scaled import scale_model
from knerex_jax.refine.grid import on_grid

OPTIONS_KEY = "knerex.session_options"
"""Metadata: options that a session of ONNX Runtime needs to run the model, as JSON; absent where it needs none."""

DEVIATION_KEY = "knerex.qdq_deviation"
"""Metadata: per output the largest deviation from the fixed-point model in codes and units, and on how many samples."""


_ALIKE = 8.0
"""Codes by which two sessions differ that differ in rounding alone."""


def qdq_onnx(planned: Planned, registry: Mapping[str, OpDef] = REGISTRY) -> onnx.ModelProto:
    """The planned model with a pair behind every quantized tensor and integer weights; real units in and out."""
    scaled = scale_model(on_grid(planned, registry), planned.structure, planned.plan, registry)
    model = to_proto(unbind(scaled, registry))
    graph, formats, shapes = model.graph, planned.plan.formats, planned.program.shapes
    made = {t for node in graph.node for t in node.output}
    nodes: list[onnx.NodeProto] = []
    renamed: dict[str, str] = {}
    inputs = {i.name for i in graph.input}
    for t in (t for t in inputs if t in formats and f"{t}/scaled" not in made):
        nodes += _pair(graph, t, t, f"{t}/dequantized", formats[t], len(shapes[t]))
        renamed[t] = f"{t}/dequantized"
    _integer_weights(graph, planned)
    outputs = {o.name for o in graph.output}
    for node in graph.node:
        node.input[:] = [renamed.get(t, t) for t in node.input]
        nodes.append(node)
        for k, t in enumerate(list(node.output)):
            name = t.removesuffix("/scaled") if t.removesuffix("/scaled") in inputs else t
            if name not in formats or (name in inputs and not t.endswith("/scaled")):
                continue
            inner = f"{t}/float" if t in outputs else t
            node.output[k] = inner
            nodes += _pair(graph, t, inner, f"{t}/dequantized", formats[name], len(shapes[name]))
            renamed[t] = f"{t}/dequantized"
            if t in outputs:
                factor = np.float32(1) / np.asarray(formats[name].scale, np.float32)
                graph.initializer.append(numpy_helper.from_array(factor.reshape(-1)[:1].reshape(()), f"{t}/unscale"))
                nodes.append(helper.make_node("Mul", [renamed[t], f"{t}/unscale"], [t], name=f"{t}/unscale"))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return model


def with_deviation(
    model: onnx.ModelProto, planned: Planned, inputs: Mapping[str, np.ndarray], codes: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Measures the largest deviation from the fixed-point model, and writes it into the model's metadata.

    Args:
      model: of `qdq_onnx`; changed.
      planned: what it was made of.
      inputs: name -> [N, ...] in place of the batch axis.
      codes: the emulator's codes of the outputs for them.

    Returns:
      Output -> {"codes", "units", "samples"}.

    Raises:
      UnsupportedOpError: ONNX Runtime has no kernel for an operator.
    """
    held, found, refusal = model.SerializeToString(), {}, None
    for keep_int8 in (False, True):
        try:
            found[keep_int8] = _measured(open_session(held, keep_int8=keep_int8), planned, inputs, codes)
        except REFUSALS as e:
            refusal = e
    if not found:
        what = f"ONNX Runtime does not run it: {str(refusal).splitlines()[0][:200]}"
        raise UnsupportedOpError(what, where="qdq.onnx", fix="use operators that ONNX Runtime has") from refusal
    needed = True in found and (False not in found or _worst(found[False]) > _worst(found[True]) + _ALIKE)
    props = {OPTIONS_KEY: msgspec.json.encode({KEEPS_INT8: "1"}).decode()} if needed else {}
    chosen = found[needed]
    helper.set_model_props(model, {DEVIATION_KEY: msgspec.json.encode(chosen).decode(), **props})
    return chosen


def _worst(deviation: Mapping[str, Mapping[str, float]]) -> float:
    return max((row["codes"] for row in deviation.values()), default=0.0)


def session_options(model: onnx.ModelProto) -> dict[str, str]:
    """Options that a session of ONNX Runtime needs to run a model of `qdq_onnx`, after `with_deviation`."""
    held = (p.value for p in model.metadata_props if p.key == OPTIONS_KEY)
    return msgspec.json.decode(next(held, "{}"))


def _measured(
    session: ort.InferenceSession, planned: Planned, inputs: Mapping[str, np.ndarray], codes: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    names, count = [o.name for o in session.get_outputs()], len(next(iter(inputs.values())))
    found: dict[str, dict[str, float]] = {}
    for k in range(count):
        feed = {i.name: np.asarray(inputs[i.name][k]).reshape(i.shape) for i in session.get_inputs()}
        for t, value in zip(names, session.run(None, feed), strict=True):
            if t not in planned.program.tensor:
                continue
            wanted = dequantize(planned.program, planned.constants, t, codes[t][k : k + 1])
            units = float(np.abs(np.ravel(value) - np.ravel(wanted)).max(initial=0))
            step = float(np.ravel(planned.constants[f"tensor:{t}"]["inverse"])[0])
            row = found.setdefault(t, {"codes": 0.0, "units": 0.0, "samples": count})
            row["units"], row["codes"] = max(row["units"], units), max(row["codes"], round(units / step, 2))
    return found


def _pair(graph: onnx.GraphProto, tensor: str, source: str, result: str, f: QFormat, rank: int) -> list[onnx.NodeProto]:
    """Source -> QuantizeLinear -> DequantizeLinear -> result, at a step of 2**-radix.

    Steps by channel are one step between two products, because runtimes fuse pairs into operators that have no other.
    """
    radix = np.asarray(f.radix, np.float64)
    shifts = np.exp2(radix - radix.min())
    step, _ = _step(graph, tensor, np.exp2(-radix.min(keepdims=True)), None)
    zero, codes = f"{tensor}/zero", f"{tensor}/codes"
    graph.initializer.append(numpy_helper.from_array(np.zeros((), np.int8 if f.bits == 8 else np.int16), zero))
    nodes, target = [], result
    if (shifts != 1).any():
        shaped = shifts.reshape([-1 if k == f.axis else 1 for k in range(rank)]).astype(np.float32)
        for name, value in ((f"{tensor}/up", shaped), (f"{tensor}/down", 1 / shaped)):
            graph.initializer.append(numpy_helper.from_array(value, name))
        nodes.append(helper.make_node("Mul", [source, f"{tensor}/up"], [f"{tensor}/raised"], name=f"{tensor}/raise"))
        source, result = f"{tensor}/raised", f"{tensor}/steps"
    nodes += [
        helper.make_node("QuantizeLinear", [source, step, zero], [codes], name=f"{tensor}/quantize"),
        helper.make_node("DequantizeLinear", [codes, step, zero], [result], name=f"{tensor}/dequantize"),
    ]
    if result != target:
        nodes.append(helper.make_node("Mul", [result, f"{tensor}/down"], [target], name=f"{tensor}/lower"))
    return nodes


def _step(graph: onnx.GraphProto, tensor: str, steps: np.ndarray, axis: int | None) -> tuple[str, dict[str, int]]:
    """The steps as a constant, one for all where they are equal; and the axis of several."""
    same = axis is None or bool((steps == steps[0]).all())
    value = np.float32(steps.reshape(-1)[0]) if same else steps.astype(np.float32)
    graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"{tensor}/step"))
    return f"{tensor}/step", {} if same else {"axis": int(axis or 0)}


def _integer_weights(graph: onnx.GraphProto, planned: Planned) -> None:
    """Weights on their grid become integers and a DequantizeLinear, where one axis has their steps."""
    held = {t.name: t for t in graph.initializer}
    made = []
    for node in graph.node:
        own = planned.constants.get(node.name, {})
        if node.name not in planned.plan.weight_bits or "weight_scale" not in own or len(node.input) < 2:
            continue
        tensor = held.get(node.input[1])
        if tensor is None:
            continue
        weight = numpy_helper.to_array(tensor).astype(np.float64)
        steps = 1 / (np.ravel(own["weight_scale"]).astype(np.float64) * np.exp2(np.ravel(own["weight_radix"])))
        axis = _axis_of(weight, steps)
        if axis is None:
            continue
        shaped = (
            steps[0]
            if (steps == steps[0]).all()
            else steps.reshape([-1 if k == axis else 1 for k in range(weight.ndim)])
        )
        codes, name = np.rint(weight / shaped), f"{node.name}/weight"
        kind = narrowest(codes)  # where input channels differ in radix, weights are multiples of the common step
        if kind.itemsize > 2:
            continue
        graph.initializer.append(numpy_helper.from_array(codes.astype(kind), f"{name}/codes"))
        step, where = _step(graph, name, steps, axis)
        made.append(helper.make_node("DequantizeLinear", [f"{name}/codes", step], [f"{name}/real"], name=name, **where))
        node.input[1] = f"{name}/real"
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*made, *rest])
    used = {t for node in graph.node for t in node.input}
    kept = [t for t in graph.initializer if t.name in used or t.name not in held]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _axis_of(weight: np.ndarray, steps: np.ndarray) -> int | None:
    """The axis along which these steps make integers of the weights."""
    for axis in range(weight.ndim):
        if len(steps) not in (1, weight.shape[axis]):
            continue
        codes = weight / steps.reshape([-1 if k == axis else 1 for k in range(weight.ndim)])
        if np.abs(codes - np.rint(codes)).max(initial=0) < 0.01:
            return axis
    return None
