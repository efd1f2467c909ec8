"""ONNX Runtime's static quantization, through its public functions; runs in an environment of its own.

python experiments/peers/ort_peer.py --folder FOLDER --models A1,A9
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from exchange import Arrays, Exchange, count_of, run_peer
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import create_calibrator, save_tensors_data
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

_CHUNK = 32  # samples whose inner tensors are in memory together; the calibrator merges the histograms of chunks
_HISTOGRAM_SAMPLES: Mapping[str, int] = {"A3_front": 32, "A3_back": 32, "A5": 32, "A6_det": 16}
"""One chunk, at most 3 GiB, where 128 samples take more than five minutes of `numpy.histogram`."""


@dataclass(frozen=True)
class Configuration:
    """One way to call `quantize_static`; int8 weights per channel everywhere."""

    method: CalibrationMethod = CalibrationMethod.MinMax
    percentile: float | None = None
    symmetric: bool = True
    activation: QuantType = QuantType.QInt8
    power_of_two: bool = False


_CALIBRATIONS = {
    "minmax": Configuration(),
    "percentile99.999": Configuration(CalibrationMethod.Percentile, 99.999),
    "percentile99.9": Configuration(CalibrationMethod.Percentile, 99.9),
    "entropy": Configuration(CalibrationMethod.Entropy),
}
CONFIGURATIONS = {
    **{f"{n}_symmetric": c for n, c in _CALIBRATIONS.items()},
    **{f"{n}_pow2": replace(c, power_of_two=True) for n, c in _CALIBRATIONS.items() if n != "entropy"},
    "minmax_symmetric_a16": Configuration(activation=QuantType.QInt16),
    **{f"{n}_asymmetric": replace(c, symmetric=False) for n, c in _CALIBRATIONS.items()},
}


class Reader(CalibrationDataReader):
    """The samples one by one."""

    def __init__(self, arrays: Arrays, start: int, stop: int) -> None:
        self._feeds = iter([{name: array[i : i + 1] for name, array in arrays.items()} for i in range(start, stop)])

    def get_next(self) -> Arrays | None:
        return next(self._feeds, None)


def calibrate(exchange: Exchange, configuration: Configuration) -> tuple[Path, int]:
    """Ranges as the calibration cache file of `quantize_static`, made if it is missing, and the number of samples."""
    arrays = exchange.calibration()
    histogram = configuration.method is not CalibrationMethod.MinMax
    count = count_of(arrays)
    if histogram:
        count = min(count, _HISTOGRAM_SAMPLES.get(exchange.folder.name, count))
    side = "symmetric" if configuration.symmetric else "asymmetric"

    def cache(percentile: float | None) -> Path:
        return exchange.own / f"{configuration.method.name}{percentile or ''}_{side}.ranges"

    wanted = cache(configuration.percentile)
    if not wanted.is_file():
        with tempfile.TemporaryDirectory() as folder:
            calibrator = create_calibrator(
                exchange.float_model,
                sorted({*QLinearOpsRegistry, *QDQRegistry}),
                augmented_model_path=f"{folder}/augmented.onnx",
                calibrate_method=configuration.method,
                extra_options={"symmetric": configuration.symmetric and histogram},
            )
            for start in range(0, count, _CHUNK):
                calibrator.collect_data(Reader(arrays, start, min(start + _CHUNK, count)))
        percentiles = {c.percentile for c in _CALIBRATIONS.values() if c.method is configuration.method}
        for percentile in percentiles:  # of one collection: collecting is what takes the time
            if percentile is not None:
                vars(calibrator)["collector"].percentile = percentile  # the base class does not declare it
            save_tensors_data(calibrator.compute_data(), cache(percentile))
    return wanted, count


def round_scales_up(model: onnx.ModelProto) -> None:
    """Makes every scale the next power of two, in place; zero points are all 0, so nothing else changes."""
    scales = {n.input[1] for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")}
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            scale = numpy_helper.to_array(tensor)
            rounded = np.exp2(np.ceil(np.log2(scale))).astype(scale.dtype)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))


def quantize(exchange: Exchange, name: str, configuration: Configuration) -> dict:
    ranges, count = calibrate(exchange, configuration)
    out = exchange.quantized(name)
    options = {"ActivationSymmetric": configuration.symmetric, "WeightSymmetric": True}
    if (
        configuration.power_of_two
    ):  # float weights behind their own QuantizeLinear follow the edited scale by themselves
        options |= {"AddQDQPairToWeight": True, "QuantizeBias": False}
    quantize_static(
        exchange.float_model,
        out,
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=configuration.activation,
        weight_type=QuantType.QInt8,
        calibrate_method=configuration.method,
        extra_options=options,
        calibration_cache_path=ranges,
    )
    if configuration.power_of_two:
        model = onnx.load(out)
        round_scales_up(model)
        onnx.save(model, out)
    return {"calibration": count}


if __name__ == "__main__":
    run_peer("ort", CONFIGURATIONS, quantize)
