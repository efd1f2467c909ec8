"""ONNX Runtime as the other side: float, integer (QDQ, unsigned activations), and its percentile calibrator."""

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import version_converter
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
from subjects import Subject, any_batch

Arrays = Mapping[str, np.ndarray]

_OPSET = 17  # per-channel QuantizeLinear needs 13
_THREADS = len(os.sched_getaffinity(0))


class Reader(CalibrationDataReader):
    """The samples one by one."""

    def __init__(self, arrays: Arrays) -> None:
        count = len(next(iter(arrays.values())))
        self._feeds = iter([{t: v[k : k + 1] for t, v in arrays.items()} for k in range(count)])

    def get_next(self) -> Arrays | None:
        return next(self._feeds, None)


def session(model: onnx.ModelProto, threads: int = _THREADS) -> ort.InferenceSession:
    """All optimizations; threads that do not spin, because spinning ones take the cores from the other side."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def runner(model: onnx.ModelProto, batch: Arrays, threads: int = _THREADS) -> tuple[Callable[[], Any], str]:
    """(a call on the whole batch, "whole" or "one by one" where the file takes one sample only).

    Args:
      model: the float or quantized model.
      batch: name -> [N, *model shape].
      threads: of the session.
    """
    feeds = {t: v.reshape(-1, *v.shape[2:]) for t, v in batch.items()}
    count = len(next(iter(batch.values())))
    loaded = session(model, threads)
    one = [np.asarray(o) for o in loaded.run(None, {t: v[:1] for t, v in feeds.items()})]
    if count == 1:
        return (lambda: loaded.run(None, feeds)), "whole"
    try:
        opened = session(any_batch(model), threads)
        whole = [np.asarray(w) for w in opened.run(None, feeds)]
        if all(w.shape[0] == count and np.isfinite(w).all() for w in whole) and all(
            np.allclose(w[:1], o, rtol=1e-2, atol=1e-2 * max(np.abs(o).max(), 1e-6))
            for w, o in zip(whole, one, strict=True)
        ):
            return (lambda: opened.run(None, feeds)), "whole"
    except Exception:  # the model's own Reshape holds a batch of 1; ORT raises several types for that
        pass
    singles = [{t: v[k : k + 1] for t, v in feeds.items()} for k in range(count)]
    return (lambda: [loaded.run(None, s) for s in singles]), "one by one"


def upgraded(model: onnx.ModelProto) -> onnx.ModelProto:
    current = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    return version_converter.convert_version(model, _OPSET) if current < _OPSET else model


def static(subject: Subject) -> onnx.ModelProto:
    """The float model with batch 1 and all shapes stated, constants folded: what quantizers want."""
    model = onnx.ModelProto.FromString(subject.proto.SerializeToString())
    constants = {t.name for t in model.graph.initializer}
    inputs = [v for v in model.graph.input if v.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    for value in inputs:
        shape = subject.model.graph.shape(value.name)
        for dim, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
            dim.dim_value = size
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    return upgraded(onnx.shape_inference.infer_shapes(model))


def u8s8(subject: Subject, samples: int = 4) -> onnx.ModelProto:
    """ONNX Runtime's fastest integer form: uint8 activations, int8 weights per channel, minimum and maximum."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        given, prepared, made = (Path(folder) / f"{n}.onnx" for n in ("given", "prepared", "made"))
        onnx.save(static(subject), given)
        quant_pre_process(given, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared, made, Reader(subject.calibration(samples)), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax,
        )  # fmt: skip
        return onnx.load(made)


def percentile_ranges(subject: Subject, arrays: Arrays) -> Any:
    """ONNX Runtime's percentile calibrator over all its operators, all samples collected at once as by default."""
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "float.onnx"
        onnx.save(static(subject), given)
        calibrator = create_calibrator(
            given, sorted({*QDQRegistry, *QLinearOpsRegistry}), augmented_model_path=f"{folder}/augmented.onnx",
            calibrate_method=CalibrationMethod.Percentile, extra_options={"percentile": 99.9, "symmetric": True},
        )  # fmt: skip
        calibrator.collect_data(Reader(arrays))
        return calibrator.compute_data()
