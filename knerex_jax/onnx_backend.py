"""The interface `onnx.backend.base.Backend`: runs any ONNX model node by node with the float rules of its operators."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnx.inliner
from onnx.backend.base import Backend, BackendRep, Device, DeviceType, namedtupledict

from knerex_jax.errors import KnerexError, ModelError, UnsupportedOpError
from knerex_jax.graph.ir import Node
from knerex_jax.graph.read import read_graph
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import bind_node, check_complete, op_of
from knerex_jax.ops.host import evaluate, host_node, is_standard
from knerex_jax.ops.opdef import OpDef

_PLATFORMS = {DeviceType.CPU: "cpu", DeviceType.CUDA: "gpu"}


@dataclass(frozen=True)
class HostNode:
    """A node that ran on the host, and why."""

    name: str
    op_type: str
    reason: str


class KnerexRep(BackendRep):
    """A model that is ready to run; every run may have other shapes.

    Attributes:
      host_nodes: of the last run: the nodes that ran on the host.
    """

    host_nodes: tuple[HostNode, ...]

    def __init__(self, model: onnx.ModelProto, device: Any, registry: Mapping[str, OpDef]) -> None:
        proto = onnx.inliner.inline_local_functions(model) if model.functions else model
        self._model = read_graph(proto.graph, widen=False)
        self._opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 1)
        self._device, self._registry = device, registry
        self.host_nodes = ()

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Returns the outputs as numpy arrays of the declared types.

        Args:
          inputs: values in the order of the model's inputs, one value, or values by name.
          kwargs: ignored.

        Raises:
          ModelError: there are too many inputs, or one is unknown.
          UnsupportedOpError: an operator is not a standard one and has no record.
        """
        graph = self._model.graph
        values: dict[str, Any] = {**self._model.constants, **_feeds(graph.inputs, inputs)}
        host: list[HostNode] = []
        with jax.enable_x64(True), jax.default_device(self._device):
            for node in graph.nodes:
                results, reason = _run_node(node, self._opset, self._registry, values)
                if reason is not None:
                    host.append(HostNode(node.name, node.op_type, reason))
                values.update((t, r) for t, r in zip(node.outputs, results, strict=False) if t)
        self.host_nodes = tuple(host)
        return namedtupledict("Outputs", list(graph.outputs))(*(_plain(values[t]) for t in graph.outputs))


class KnerexBackend(Backend):
    """Runs ONNX models of any opset with jax; standard operators without a rule run on the host."""

    @classmethod
    def prepare(
        cls, model: onnx.ModelProto, device: str = "CPU", *, ops: Mapping[str, OpDef] = REGISTRY, **kwargs: Any
    ) -> KnerexRep:
        """Returns the model, ready to run.

        Args:
          model: of any opset that onnx knows.
          device: "CPU", "CUDA" or "CUDA:1".
          ops: operator records, also of custom operators.
          kwargs: ignored.
        """
        super().prepare(model, device, **kwargs)
        return KnerexRep(model, _device(device), ops)

    @classmethod
    def run_node(
        cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> tuple[Any, ...]:
        """Runs one operator on the values of its present inputs; `opset_version` states its version."""
        super().run_node(node, inputs, device, outputs_info, **kwargs)
        version = kwargs.get("opset_version", onnx.defs.onnx_opset_version())
        graph = onnx.helper.make_graph(
            [node],
            "node",
            [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(node.input) if name],
            [onnx.ValueInfoProto(name=name) for name in node.output if name],
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)])
        return KnerexRep(model, _device(device), REGISTRY).run(inputs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether jax has that device here."""
        try:
            return _device(device) is not None
        except (AttributeError, IndexError, RuntimeError):
            return False


prepare = KnerexBackend.prepare
run_model = KnerexBackend.run_model
run_node = KnerexBackend.run_node
supports_device = KnerexBackend.supports_device


def _device(name: str) -> Any:
    """The device that jax has for a name such as "CUDA:1"."""
    wanted = Device(name)
    return jax.devices(_PLATFORMS[wanted.type])[wanted.device_id]


def _feeds(names: Sequence[str], inputs: Any) -> dict[str, Any]:
    """Values by name; inputs that come last may be left out."""
    given = dict(inputs) if isinstance(inputs, Mapping) else None
    if given is None:
        listed = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        if len(listed) > len(names):
            fix = f"the inputs are: {', '.join(names)}"
            raise ModelError(f"{len(listed)} values for {len(names)} inputs", where="inputs", fix=fix)
        given = dict(zip(names, listed, strict=False))
    if unknown := sorted(set(given) - set(names)):
        fix = f"the inputs are: {', '.join(names)}"
        raise ModelError(f"the model has no input '{unknown[0]}'", where="inputs", fix=fix)
    return given


def _run_node(
    node: Node, opset: int, registry: Mapping[str, OpDef], values: Mapping[str, Any]
) -> tuple[Sequence[Any], str | None]:
    """Results of a node, and why it ran on the host if it did."""
    args = {t: values[t] for t in node.inputs if t}
    try:
        if not all(_is_tensor(v) for v in args.values()):
            fix = "feed tensors of numbers"
            raise UnsupportedOpError("an input is no tensor of numbers", where=f"node {node.name}", fix=fix)
        arrays = {t: np.asarray(v) for t, v in args.items()}
        bound = bind_node(node, registry, opset, {t: v.shape for t, v in arrays.items()}, arrays)
        op = op_of(bound, registry)
        results = op.to_float(bound.attrs, *(jnp.asarray(values[t]) if t else None for t in bound.inputs))
        results = results if isinstance(results, tuple | list) else (results,)
        check_complete(node, len(results))
        return results, None
    except KnerexError as error:
        if not is_standard(node):
            raise
        hosted = host_node(node, opset)
        return evaluate(hosted.attrs, *(values[t] if t else None for t in hosted.inputs)), error.what
    except (TypeError, ValueError, IndexError) as error:
        said, shapes = " ".join(str(error).split())[:300], ", ".join(f"{t}: {np.shape(v)}" for t, v in args.items())
        fix = "check the shapes of the inputs given"
        what = f"{node.op_type} does not accept ({shapes}): {said}"
        raise ModelError(what, where=f"node {node.name}", fix=fix) from error


def _is_tensor(value: Any) -> bool:
    return isinstance(value, jax.Array) or (
        isinstance(value, np.ndarray | np.generic) and value.dtype.kind not in "OUS"
    )


def _plain(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, jax.Array | np.generic) else value
