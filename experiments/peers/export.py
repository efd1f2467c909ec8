"""Writes float models and calibration arrays for the peers; runs in the environment of the project.

python experiments/peers/export.py --folder FOLDER [--models A1,A9]
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import version_converter
from onnxruntime.quantization.shape_inference import quant_pre_process

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from helpers import FLOAT_TOLERANCE, relative_error  # noqa: E402
from real_models import REAL_MODELS, Arrays, ort_run  # noqa: E402

MODELS = ("embedded", "A9", "A1", "A2", "A3_front", "A3_back", "A6_cls", "A6_det", "A5")
_OPSET = 17  # per-channel QuantizeLinear needs 13


def with_shapes(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    """Batch 1 and the stated shapes at the inputs; everything behind them is inferred anew."""
    static = onnx.ModelProto.FromString(model.SerializeToString())
    constants = {t.name for t in static.graph.initializer}
    inputs = [v for v in static.graph.input if v.name not in constants]
    del static.graph.input[:]  # older files repeat their constants here, which keeps them from being folded
    static.graph.input.extend(inputs)
    for value in inputs:
        dims = value.type.tensor_type.shape.dim
        wanted = shapes.get(value.name, (1, *(d.dim_value for d in dims[1:])))
        for dim, size in zip(dims, wanted, strict=True):
            dim.dim_value = size
    for value in static.graph.output:
        value.type.tensor_type.ClearField("shape")
    del static.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(static)


def upgraded(model: onnx.ModelProto) -> onnx.ModelProto:
    current = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    return version_converter.convert_version(model, _OPSET) if current < _OPSET else model


def check_same(original: Path, prepared: Path, inputs: Arrays) -> None:
    """Raises ValueError where preparing made another function of the model: no figure would mean anything then."""
    found = ort_run(prepared, inputs)
    for output, expected in ort_run(original, inputs).items():
        error = relative_error(expected, found[output].reshape(expected.shape))
        if error > FLOAT_TOLERANCE["runtime"]:
            raise ValueError(f"{prepared}: {output} differs from {original} by {error:.1e}")


def export(name: str, folder: Path) -> None:
    """Writes what the peers need for one model; does nothing where that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    real = REAL_MODELS[name]()
    if not (folder / "calibration.npz").is_file():
        np.savez(folder / "part.npz", **real.calibration(None))
        (folder / "part.npz").rename(folder / "calibration.npz")  # whole or absent, whatever stops us
    if not (folder / "float.onnx").is_file():
        static = upgraded(with_shapes(onnx.load(real.path), real.input_shapes))
        onnx.save(static, folder / "static.onnx")  # given a model in memory, it loses track of its own constants
        quant_pre_process(folder / "static.onnx", folder / "part.onnx", skip_symbolic_shape=True)
        check_same(real.path, folder / "part.onnx", real.calibration(2))
        (folder / "part.onnx").rename(folder / "float.onnx")
        (folder / "static.onnx").unlink()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--models", default=",".join(MODELS))
    args = parser.parse_args()
    for name in args.models.split(","):
        export(name, args.folder / name)
        print("exported", name, flush=True)


if __name__ == "__main__":
    main()
