"""The models of the suite: real ones of the zoo and networks with random weights, with data, plans and ONNX files."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from helpers import Net  # noqa: E402
from helpers import samples as random_samples  # noqa: E402
from real_models import REAL_MODELS, first  # noqa: E402

from knerex_jax.artifacts.bie import Bie, load_bie, save_bie  # noqa: E402
from knerex_jax.fixedpoint.qformat import ARITH_VERSION  # noqa: E402
from knerex_jax.flow import analyze, decompose_onnx, make_plan  # noqa: E402
from knerex_jax.graph.ir import Model  # noqa: E402
from knerex_jax.graph.write import to_proto  # noqa: E402
from knerex_jax.ops import REGISTRY  # noqa: E402
from knerex_jax.ops.bind import unbind  # noqa: E402
from knerex_jax.passes.pipeline import decompose_model  # noqa: E402
from knerex_jax.quantize.config import PTQConfig, make_config  # noqa: E402
from knerex_jax.zoo.fetch import cache_dir  # noqa: E402

Arrays = Mapping[str, np.ndarray]

WIDTHS: dict[str, dict[str, str]] = {
    "int8": {},
    "w8a16": {f"{k}_bitwidth_mode": "int16" for k in ("datapath", "model_in", "model_out")},
    "int16": {f"{k}_bitwidth_mode": "int16" for k in ("datapath", "weight", "model_in", "model_out")},
}


@dataclass(frozen=True)
class Subject:
    """A model of the suite.

    Attributes:
      name: of the zoo, or of a network below.
      model: decomposed: batch norms folded.
      source: the ONNX file that a user would give to another runtime; None: only the decomposed one exists.
      calibration, evaluation: count -> arrays.
    """

    name: str
    model: Model
    source: Path | None
    calibration: Callable[[int], Arrays]
    evaluation: Callable[[int], Arrays]

    @cached_property
    def proto(self) -> onnx.ModelProto:
        """The float model for another runtime."""
        if self.source is not None:
            return onnx.load(self.source)
        return onnx.ModelProto.FromString(to_proto(unbind(self.model, REGISTRY)).SerializeToString())

    def batch(self, count: int) -> dict[str, np.ndarray]:
        """name -> [count, *model shape]; evaluation samples, from the start again where there are too few."""
        arrays = {}
        for name, held in self.evaluation(min(count, 32)).items():
            arrays[name] = np.resize(held, (count, *held.shape[1:])).reshape(count, *self.model.graph.shape(name))
        return arrays

    def bie(self, width: str, samples: int = 16) -> Bie:
        """The fixed-point model for 720, made once and kept in the cache folder."""
        folder = cache_dir() / "bench"
        path = folder / f"{self.name}-{width}-{samples}.bie"
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            ranges = analyze(self.model, self.calibration(samples), PTQConfig(platform="720"))
            for each, options in WIDTHS.items():
                planned = make_plan(self.model, ranges, make_config(platform="720", **options))
                bie = Bie(planned.program, planned.constants, planned.plan, {"arith_version": ARITH_VERSION})
                save_bie(bie, folder / f"{self.name}-{each}-{samples}.bie")
        return load_bie(path)


def subject(name: str) -> Subject:
    """Looks a model up, or makes it."""
    if name in _NETWORKS:
        model = _NETWORKS[name]()
        return Subject(
            name, model, None, lambda count: random_samples(model, count),
            lambda count: random_samples(model, count, seed=2),
        )  # fmt: skip
    real = REAL_MODELS[name]()
    model = decompose_onnx(real.path, make_config(input_shape=real.input_shapes or None))
    return Subject(name, model, real.path, real.calibration, lambda count: first(real.evaluation(count)[0], count))


def resnet(blocks: tuple[int, ...] = (64, 64, 128, 128, 256, 256), size: int = 56) -> Model:
    """A residual network with random weights: the widths of ResNet-18 on its 56 x 56 maps."""
    net = Net({"x": (1, 3, size, size)})
    x = net.add("Relu", net.conv("x", blocks[0]))
    for channels in blocks:
        stride = 1 if net.types[x].shape[1] == channels else 2
        y = net.conv(net.add("Relu", net.conv(x, channels, stride=stride)), channels)
        x = net.add("Relu", net.add("Add", y, x if stride == 1 else net.conv(x, channels, kernel=1, stride=2)))
    flat = net.add("Flatten", net.add("GlobalAveragePool", x))
    return decompose_model(net.model(net.add("Gemm", flat, net.random(blocks[-1], 10), net.random(10))))


def light_resnet50() -> Model:
    """ResNet-50 of the ONNX project's light models, which come without weights, with random ones of He's variance."""
    path = Path(onnx.__file__).parent / "backend/test/data/light/light_resnet50.onnx"
    model, rng = decompose_onnx(path), np.random.default_rng(0)
    constants = dict(model.constants)
    for node in model.graph.nodes:
        if node.op_type in ("Conv", "Gemm"):
            weight, bias = (constants[t] for t in node.inputs[1:3])
            fan_in = weight[0].size if node.op_type == "Conv" else model.graph.shape(node.inputs[0])[-1]
            constants[node.inputs[1]] = np.float32(rng.normal(0, (2 / fan_in) ** 0.5, weight.shape))
            constants[node.inputs[2]] = np.float32(rng.normal(0, 0.1, bias.shape))
    return Model(model.graph, constants)


def deep(nodes: int, channels: int = 32, size: int = 14) -> Model:
    """A residual network of about so many nodes (convolutions, activations, additions), for compile times."""
    net = Net({"x": (1, 3, size, size)})
    x = net.add("Relu", net.conv("x", channels))
    while len(net.nodes) < nodes:
        y = net.conv(net.add("Relu", net.conv(x, channels)), channels)
        x = net.add("Relu", net.add("Add", y, x))
    return net.model(x)


_NETWORKS: dict[str, Callable[[], Model]] = {
    "resnet": resnet,
    "tiny-resnet": lambda: resnet((16, 16, 32, 32, 64, 64), 32),
    "light-resnet50": light_resnet50,
}


def any_batch(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its batch size left open, in its Reshapes too; whether it really takes any is for a run to say."""
    model = onnx.ModelProto.FromString(proto.SerializeToString())
    constants = {t.name for t in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.output):
        dims: Any = value.type.tensor_type.shape.dim
        if value.name not in constants and dims:
            dims[0].dim_param = "N"
    reshaped = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    for tensor in model.graph.initializer:
        if tensor.name in reshaped and (shape := numpy_helper.to_array(tensor)).size and shape[0] == 1:
            shape = np.concatenate([[0], shape[1:]])  # 0: as it is
            tensor.CopyFrom(numpy_helper.from_array(shape.astype(np.int64), tensor.name))
    del model.graph.value_info[:]
    return model
