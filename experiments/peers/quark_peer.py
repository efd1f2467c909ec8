"""AMD Quark's ONNX quantizer at its presets and per channel; runs in an environment of its own.

python experiments/peers/quark_peer.py --folder FOLDER --models A1,A9
"""

# Its packages are in an environment of their own.
# pyright: reportMissingImports=false

from collections.abc import Callable, Mapping

from exchange import Arrays, Exchange, count_of, feeds, run_peer
from onnxruntime.quantization import CalibrationDataReader
from quark.onnx import ModelQuantizer, QConfig, QLayerConfig
from quark.onnx.quantization.config.algorithm import CLEConfig
from quark.onnx.quantization.config.custom_config import A8W8_QCONFIG, XINT8_QCONFIG
from quark.onnx.quantization.config.spec import CalibMethod, Int8Spec, QuantGranularity, UInt8Spec, XInt8Spec

_HISTOGRAM_SAMPLES: Mapping[str, int] = {"A1": 32, "A3_front": 32, "A3_back": 32, "A5": 32, "A6_det": 16}
"""Where more take many minutes; its minimum and maximum see all."""

_CHANNEL = {"quant_granularity": QuantGranularity.Channel}


def _per_channel(activation: type = Int8Spec, weight: type = Int8Spec, **how: object) -> QConfig:
    layer = QLayerConfig(activation=activation(**how), weight=weight(**_CHANNEL))
    return QConfig(global_config=layer, extra_options={"ForceQuantizeNoInputCheck": True, "EnableNPUCnn": False})


def _xint8_cle() -> QConfig:
    layer = QLayerConfig(activation=XInt8Spec(), weight=XInt8Spec())
    return QConfig(global_config=layer, algo_config=[CLEConfig()], extra_options={"ForceQuantizeNoInputCheck": True})


CONFIGURATIONS: dict[str, Callable[[], QConfig]] = {
    "s8s8_preset_symmetric": lambda: A8W8_QCONFIG,
    "s8s8_percentile_channel_symmetric": _per_channel,
    "s8s8_minmax_channel_symmetric": lambda: _per_channel(calibration_method=CalibMethod.MinMax),
    "xint8_preset_pow2": lambda: XINT8_QCONFIG,
    "xint8_cle_pow2": _xint8_cle,
    "xint8_channel_pow2": lambda: _per_channel(XInt8Spec, XInt8Spec),
    "u8s8_percentile_channel_asymmetric": lambda: _per_channel(UInt8Spec),
}


class Reader(CalibrationDataReader):
    """The samples one by one, from the start again after `rewind`."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self.rewind()

    def rewind(self) -> None:
        self._feeds = feeds(self._arrays)

    def get_next(self) -> Arrays | None:
        return next(self._feeds, None)


def quantize(exchange: Exchange, name: str, configuration: Callable[[], QConfig]) -> dict:
    arrays = exchange.calibration()
    count = count_of(arrays)
    if "minmax" not in name:
        count = min(count, _HISTOGRAM_SAMPLES.get(exchange.folder.name, count))
    reader = Reader({k: v[:count] for k, v in arrays.items()})
    ModelQuantizer(configuration()).quantize_model(
        str(exchange.float_model), str(exchange.quantized(name)), calibration_data_reader=reader
    )
    return {"calibration": count}


if __name__ == "__main__":
    run_peer("quark", CONFIGURATIONS, quantize)
