"""What a dump holds of each kind of model, and one inference that hands over its tensors one after the other."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from knerex_jax.csim.machine import dequantize
from knerex_jax.dumps.index import Entry, Part
from knerex_jax.emulator.walk import Steps, input_codes, walk
from knerex_jax.lowering.float import walk_float
from knerex_jax.npu.isa import Compute, Port
from knerex_jax.npu_model import NpuModel
from knerex_jax.runner import AnyModel
from knerex_jax.runtime import FixedModel, FloatModel

Values = dict[Part, np.ndarray]
"""What is known of a tensor: arrays [*shape], or with a batch axis of 1."""

Sink = Callable[[str, Values], None]
"""Takes a tensor and its values."""

Visit = Callable[[Mapping[str, np.ndarray], Sink], None]
"""Runs one sample, name -> array in place of the model's batch axis; the sink gets every tensor of `entries` once."""


def entries(model: AnyModel) -> list[Entry]:
    """The tensors that a model hands over, without files."""
    match model:
        case FloatModel():
            return _float_entries(model)
        case FixedModel():
            return _fixed_entries(model)
        case NpuModel():
            return _npu_entries(model)


def visitor(model: AnyModel) -> Visit:
    """One inference of a model; what it compiles serves all samples."""
    match model:
        case FloatModel():
            return lambda sample, sink: _visit_float(model, sample, sink)
        case FixedModel():
            steps: Steps = {}
            return lambda sample, sink: _visit_fixed(model, sample, sink, steps)
        case NpuModel():
            return lambda sample, sink: _visit_npu(model, sample, sink)


def _float_entries(model: FloatModel) -> list[Entry]:
    graph = model.model.graph
    made = [(t, n) for n in graph.nodes for t in n.outputs if t]
    rows = [Entry(t, "", (), (), _unbatched(graph.shape(t)), graph.types[t].dtype) for t in graph.inputs]
    return rows + [
        Entry(t, n.name, (n.name,), n.origin, _unbatched(graph.shape(t)), graph.types[t].dtype) for t, n in made
    ]


def _visit_float(model: FloatModel, sample: Mapping[str, np.ndarray], sink: Sink) -> None:
    graph = model.model.graph
    inputs = {t: sample[t].reshape(graph.shape(t)) for t in graph.inputs}
    for t, value in inputs.items():
        sink(t, {"float": value})
    for _, made in walk_float(model.model, inputs, registry=model.ops):
        for t, value in made.items():
            sink(t, {"float": np.asarray(value)})


def _fixed_entries(model: FixedModel) -> list[Entry]:
    program, formats = model.program, model.bie.plan.formats
    origins: Mapping[str, Any] = model.bie.header.get("origins", {})

    def entry(t: str, node: str, nodes: tuple[str, ...]) -> Entry:
        origin = tuple(dict.fromkeys(o for n in nodes for o in origins.get(n, ())))
        if t in program.exact:
            return Entry(t, node, nodes, origin, _unbatched(program.shapes[t]), program.exact[t].dtype)
        held, f = program.tensor[t], formats.get(t)
        radix, scale = ((), ()) if f is None else (tuple(f.radix.tolist()), tuple(f.scale.astype(float).tolist()))
        return _coded(t, node, nodes, origin, held.shape, held.bits, held.axis, radix, scale)

    rows = [entry(t, "", ()) for t in program.inputs]
    return rows + [entry(t, i.name, tuple(i.nodes) or (i.name,)) for i in program.instructions for t in i.outputs if t]


def _visit_fixed(model: FixedModel, sample: Mapping[str, np.ndarray], sink: Sink, steps: Steps) -> None:
    program, constants = model.program, model.bie.constants
    inputs = {t: sample[t][None] for t in program.inputs}

    def hand_over(t: str, codes: np.ndarray) -> None:
        sink(t, {"codes": codes} if t in program.exact else {"codes": codes, "float": model.dequantize(t, codes)})

    for t, values in inputs.items():
        hand_over(t, input_codes(program, constants, t, values)[0])
    for _, made in walk(program, constants, inputs, steps=steps):
        for t, codes in made.items():
            hand_over(t, codes[0])


def _npu_entries(model: NpuModel) -> list[Entry]:
    program, ports = model.program, _ports(model)
    made = {t: c.instruction for c in program.commands if isinstance(c, Compute) for t in c.instruction.outputs}
    numbers = dict(program.tensors)
    rows = []
    for t in _whole(model):
        held, i = program.buffers[numbers[t]], made.get(t)
        node, nodes = ("", ()) if i is None else (i.name, tuple(i.nodes) or (i.name,))
        if held.bits:
            radix, scale = (ports[t].radix, ports[t].scale) if t in ports else ((), ())
            rows.append(_coded(t, node, nodes, (), held.shape, held.bits, held.axis, radix, scale))
        else:
            rows.append(Entry(t, node, nodes, (), _unbatched(held.shape), held.dtype))
    return rows


def _visit_npu(model: NpuModel, sample: Mapping[str, np.ndarray], sink: Sink) -> None:
    ports, numbers = _ports(model), dict(model.program.tensors)

    def hand_over(t: str, codes: np.ndarray) -> None:
        known = t in ports and model.program.buffers[numbers[t]].bits
        sink(t, {"codes": codes, "float": dequantize(ports[t], codes)} if known else {"codes": codes})

    model.visit(sample, hand_over, "fixed", taps=_whole(model))


def _ports(model: NpuModel) -> dict[str, Port]:
    return {p.name: p for p in (*model.program.inputs, *model.program.outputs)}


def _whole(model: NpuModel) -> tuple[str, ...]:
    """Inputs, inner tensors and outputs that some buffer holds whole, once each."""
    program, held = model.program, dict(model.program.tensors)
    inputs, outputs = ([p.name for p in ports if p.name in held] for ports in (program.inputs, program.outputs))
    return tuple(dict.fromkeys((*inputs, *model.inner, *outputs)))


def _coded(
    tensor: str, node: str, nodes: tuple[str, ...], origin: tuple[str, ...], shape: tuple[int, ...], bits: int,
    axis: int | None, radix: tuple[int, ...], scale: tuple[float, ...],
) -> Entry:  # fmt: skip
    """An entry of codes; one number per channel has an axis, one for all has none."""
    kept = _unbatched(shape)
    along = None if axis is None or len(radix) < 2 else axis - (len(shape) - len(kept))
    return Entry(tensor, node, nodes, origin, kept, "int8" if bits == 8 else "int16", bits, along, radix, scale)


def _unbatched(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[1:] if shape[:1] == (1,) else shape
