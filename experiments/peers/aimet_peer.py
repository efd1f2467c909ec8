"""AIMET-ONNX's quantization simulation, exported as QDQ; runs in an environment of its own.

python experiments/peers/aimet_peer.py --folder FOLDER --models A1,A9
"""

# Its packages are in an environment of their own.
# pyright: reportMissingImports=false

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import aimet_onnx
import onnx
import onnxruntime as ort
from aimet_onnx.common import quantsim_config
from aimet_onnx.cross_layer_equalization import equalize_model
from exchange import Exchange, count_of, feeds, run_peer


@dataclass(frozen=True)
class Configuration:
    """One simulation; int8 weights per channel everywhere, biases in float, as its default files have it.

    Attributes:
      scheme: `min_max`, or `tf_enhanced`, its search for the range with the best signal-to-noise ratio.
      symmetric: for activations.
      bits: of activations.
      equalize: cross-layer equalization before it.
    """

    scheme: str
    symmetric: bool = True
    bits: int = 8
    equalize: bool = False


CONFIGURATIONS = {
    "minmax_symmetric": Configuration("min_max"),
    "sqnr_symmetric": Configuration("tf_enhanced"),
    "sqnr_cle_symmetric": Configuration("tf_enhanced", equalize=True),
    "minmax_symmetric_a16": Configuration("min_max", bits=16),
    "minmax_asymmetric": Configuration("min_max", symmetric=False),
    "sqnr_asymmetric": Configuration("tf_enhanced", symmetric=False),
    "sqnr_cle_asymmetric": Configuration("tf_enhanced", symmetric=False, equalize=True),
}


def config_file(folder: Path, symmetric: bool) -> str:
    """Its own file for weights per channel, with activations symmetric where asked."""
    shipped = Path(next(iter(quantsim_config.__path__))) / "default_config_per_channel.json"
    settings = json.loads(shipped.read_text())
    settings["defaults"]["ops"]["is_symmetric"] = str(symmetric)
    path = folder / "config.json"
    path.write_text(json.dumps(settings))
    return str(path)


def quantize(exchange: Exchange, name: str, configuration: Configuration) -> dict:
    model = onnx.load(exchange.float_model)
    if configuration.equalize:
        equalize_model(model)
    calibration = exchange.calibration()
    with tempfile.TemporaryDirectory() as folder:
        sim = aimet_onnx.QuantizationSimModel(
            model,
            param_type="int8",
            activation_type=f"int{configuration.bits}",
            quant_scheme=configuration.scheme,
            config_file=config_file(Path(folder), configuration.symmetric),
            session_options_kwargs={"intra_op_num_threads": 1, "log_severity_level": 3},
        )
        sim.compute_encodings(feeds(calibration))
        onnx.save(sim.to_onnx_qdq(force_activation_as="signed"), exchange.quantized(name))
    return {"calibration": count_of(calibration)}


if __name__ == "__main__":
    ort.set_default_logger_severity(3)
    run_peer("aimet", CONFIGURATIONS, quantize)
