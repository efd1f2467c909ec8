"""Ranges + structure + widths -> a format for every tensor. Sections 1 and 2 of the contract.

Host code in float64: plans are deterministic and do not depend on a device.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from knerex_jax.calibrate.ranges import Ranges, TensorRange
from knerex_jax.fixedpoint.qformat import QFormat, data_limits, imposed_radix, own_format
from knerex_jax.graph.ir import Graph, Model
from knerex_jax.quantize.bitwidth import Widths
from knerex_jax.quantize.impose import asked_absmax, impose_scales, missed_radices, trace
from knerex_jax.quantize.note import Note
from knerex_jax.quantize.overrides import NO_OVERRIDES, Overrides, merge_notes
from knerex_jax.quantize.plan import QuantPlan
from knerex_jax.quantize.structure import Structure, channel_count
from knerex_jax.targets.spec import Target


@dataclass(frozen=True)
class RangePolicy:
    """How measured ranges become the ranges that formats are made for.

    Attributes:
      guard_bits: a channel's range is at least the layer's divided by 2**guard_bits.
      evidence: a channel's own range counts only if it rests on this many values.
      headroom_bits: width -> bits of headroom for data (never beyond an analytic bound).
      output_headroom: share by which the ranges of the model's outputs are wider than what was seen (the same).
    """

    guard_bits: int = 2
    evidence: int = 3000
    headroom_bits: Mapping[int, float] = field(default_factory=lambda: {8: 0, 15: 2})
    output_headroom: float = 0.0


def channel_absmax(
    model: Model,
    structure: Structure,
    ranges: Ranges,
    widths: Widths,
    policy: RangePolicy,
    overrides: Overrides = NO_OVERRIDES,
) -> dict[str, np.ndarray]:
    """The range each tensor's format has to cover: float64 [C], real units ([1] for tensors without channels)."""
    result, given = {}, {}
    for t in structure.tensors:
        if t in structure.hidden:
            continue
        record, channels = _record(structure, ranges, t)
        bits = widths.data[t]
        count = channel_count(model.graph, t, structure.axes[t])
        asked = asked_absmax(structure, ranges, overrides, t, bits)
        if asked is not None:
            whole = t in structure.layer or len(asked) not in (1, count)
            result[t] = given[t] = np.array(np.broadcast_to(asked.max() if whole else asked, (count,)))
            continue
        layer, own = record.layer_absmax(bits), np.asarray(record.channel_absmax(bits), np.float64)
        own = own[channels] if channels is not None and len(own) > 1 else own
        layer = max(layer, float(own.max(initial=0)))
        factor = 2.0 ** policy.headroom_bits[bits] * (1 + policy.output_headroom * (t in structure.leaving))
        limit = structure.bounds.get(t, np.inf)
        layer = max(min(layer * factor, limit), min(layer, limit))
        if record.values_per_channel < policy.evidence or t in structure.layer or len(own) != count:
            result[t] = np.full(count, layer)
        else:
            result[t] = np.maximum(np.minimum(own * factor, limit), layer * 2.0**-policy.guard_bits)
    return _without_masked(model.graph, structure, ranges, widths, result) | given


_SUMS = ("Add", "Sub", "Sum")

_FAR_BELOW = 11.0
"""exp(-11) is below half a step of a 15-bit softmax term."""


def _without_masked(
    graph: Graph, structure: Structure, ranges: Ranges, widths: Widths, absmax: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Takes additive masks before a softmax out of the ranges: what lies that far below every score counts as 0.

    With scores within +-S, a masked sum that saturates at -(S + 11) is as good as any lower one; so is its maximum,
    where a mask hides all there is. The mask is the operand that is never positive; of two the one that reaches
    further down.
    """
    limits: dict[str, float] = {}
    for y, operands in structure.masked.items():
        cuts = {t: _record(structure, ranges, t)[0].cut(widths.data[t]) for t in operands}
        never_positive = [t for t in operands if cuts[t].layer_max <= 0]
        if never_positive:
            mask = min(never_positive, key=lambda t: cuts[t].layer_min)
            scores = operands[operands[0] == mask]
            reach = float(absmax[scores].max())
            peaks = [n.outputs[0] for n in graph.readers[y] if n.op_type == "ReduceMax"]
            limits |= dict.fromkeys((y, *peaks), reach + _FAR_BELOW)
            limits[mask] = max(limits.get(mask, 0.0), 2 * reach + _FAR_BELOW)
    return absmax | {t: np.minimum(absmax[t], limit) for t, limit in limits.items()}


def _record(structure: Structure, ranges: Ranges, tensor: str) -> tuple[TensorRange, np.ndarray | None]:
    """The measured ranges of a tensor or of the one it is a copy of, and which channels of it these are."""
    source, channels = trace(structure, tensor, ranges)
    return ranges[source], channels


def solve(
    model: Model,
    structure: Structure,
    absmax: Mapping[str, np.ndarray],
    widths: Widths,
    target: Target,
    overrides: Overrides = NO_OVERRIDES,
) -> QuantPlan:
    """Chooses scale and radix of every tensor for the ranges that `channel_absmax` gives.

    The plan carries a note where a radix had to be clamped, unless that costs nothing: where only sums read the tensor
    and even its largest value is below half a step of each, it vanishes there in any format.

    Raises:
      ScaleClash: no scale of a product fits all that is asked of it.
    """
    class_scale, reference, refused = _class_scales(model, structure, widths, absmax, target, overrides)
    formats, limited = {}, []
    number = {t: i for i, t in enumerate(structure.tensors)}
    for t, a in absmax.items():
        bits = widths.data[t]
        classes = structure.classes[t]
        qmax = data_limits(bits)[1]
        scale = class_scale[classes]
        radix, clamped = imposed_radix(a, scale, qmax, bits)
        # The member a class takes its scale from keeps its own radix: rounding the scale must not cost it a bit.
        own_radix, _, own_clamped = own_format(a, qmax, bits)
        is_reference = reference[classes] == number[t]
        radix = np.where(is_reference & (own_radix == radix + 1), own_radix, radix)
        if t in overrides.radix:
            radix = np.array(np.broadcast_to(overrides.radix[t], radix.shape))
        elif (clamped | (own_clamped & is_reference)).any():
            limited.append(t)
        if t in structure.layer:
            formats[t] = QFormat(radix.min(keepdims=True), scale[:1], bits, None)
        elif not target.per_channel_radix:
            formats[t] = QFormat(np.full_like(radix, radix.min()), scale, bits, structure.axes[t])
        else:
            formats[t] = QFormat(radix, scale, bits, structure.axes[t])
    formats = _narrow_concats(model, formats, target)
    notes = (
        Note(t, "radix of the measured range", "radix clamped to -16 .. 31", "outside the number format")
        for t in limited
        if not _vanishes(model.graph, t, float(absmax[t].max()), formats)
    )
    return QuantPlan(
        formats=formats,
        platform=target.name,
        post_multiplier=target.post_multiplier,
        weight_bits=dict(widths.weights),
        fused=dict(structure.fused),
        islands=tuple(structure.islands),
        notes=(
            *widths.notes,
            *notes,
            *merge_notes((*overrides.notes, *refused, *missed_radices(overrides, formats))),
        ),
    )


def _vanishes(graph: Graph, tensor: str, reach: float, formats: Mapping[str, QFormat]) -> bool:
    """Whether all that reads a tensor are sums with a step of more than twice its largest magnitude."""
    readers = graph.readers.get(tensor, ())
    if tensor in graph.outputs or not readers:
        return False
    return all(n.op_type in _SUMS and reach * formats[n.outputs[0]].factor.max() < 0.5 for n in readers)


def _class_scales(
    model: Model,
    structure: Structure,
    widths: Widths,
    absmax: Mapping[str, np.ndarray],
    target: Target,
    overrides: Overrides,
) -> tuple[np.ndarray, np.ndarray, tuple[Note, ...]]:
    """Scale of every class (float32), the number of the tensor it was taken from, and scales that were refused.

    The number is -1 where the scale is a product or the user's.
    """
    graph = model.graph
    members = []
    for number, t in enumerate(structure.tensors):
        if t not in absmax:
            continue
        node = graph.producer.get(t)
        is_sum = node is not None and node.op_type in _SUMS
        c = structure.classes[t]
        members.append(
            np.stack([c, np.full_like(c, -widths.data[t]), np.full_like(c, is_sum), np.full_like(c, number)])
        )
    label, narrow, is_sum, number = np.concatenate(members, axis=1)
    order = np.lexsort((number, is_sum, narrow, label))
    last = np.append(label[order][1:] != label[order][:-1], True)
    count = 1 + max(int(c.max()) for c in structure.classes.values())
    reference = np.full(count, -1)
    reference[label[order][last]] = number[order][last]

    scale = np.ones(count, np.float32)
    for number, t in enumerate(structure.tensors):
        if t not in absmax:
            continue
        classes = structure.classes[t]
        mine = reference[classes] == number
        if mine.any():
            largest = np.zeros(count)
            np.maximum.at(largest, classes[mine], absmax[t][mine])
            touched = np.unique(classes[mine])
            bits = widths.data[t]
            qmax = data_limits(bits)[1]
            radix, own, _ = own_format(largest[touched], qmax, bits)
            if not target.per_channel_radix:
                # One radix for the layer: the scale alone follows the channels, beyond [1, 2) where it must.
                shared = np.ldexp(qmax / np.maximum(largest[touched], np.finfo(np.float64).tiny), -radix.min())
                own = np.where(largest[touched] == 0, np.float32(1), np.float32(shared))
            scale[touched] = own
    scale, reference, refused = impose_scales(structure, absmax, widths, overrides, scale, reference)
    return *_products(structure, scale, reference), refused


class ScaleClash(Exception):
    """The scale of a product is imposed by something else, too; a rescale behind the product separates the two."""

    def __init__(self, tensor: str) -> None:
        super().__init__(tensor)
        self.tensor = tensor


def _products(structure: Structure, scale: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Imposes the scale of every product.

    Raises:
      ScaleClash: another tensor imposes a scale on the same class, or it is that of an operand.
    """
    imposed: dict[int, str] = {}

    def product(classes: np.ndarray, *operands: str) -> np.ndarray:
        a, b = (structure.classes[t][:1] if t in structure.layer else structure.classes[t] for t in operands)
        # One float32 rounding, as for every scale.
        return np.broadcast_to(np.float32(scale[a].astype(np.float64) * scale[b]), classes.shape)

    for y, a, b in structure.products:
        classes = structure.classes[y]
        value = product(classes, a, b)
        for c in np.unique(classes):
            same = value[classes == c]
            earlier = imposed.get(int(c))
            if (same != same[0]).any() or (earlier is not None and scale[c] != same[0]):
                raise ScaleClash(y)
            imposed[int(c)] = y
            scale[c], reference[c] = same[0], -1
    for y, a, b in structure.products:
        # What was imposed may be the scale of an operand, too: x * x beside x in a Concat.
        classes = structure.classes[y]
        if (scale[classes] != product(classes, a, b)).any():
            raise ScaleClash(y)
    return scale, reference


def _narrow_concats(model: Model, formats: dict[str, QFormat], target: Target) -> dict[str, QFormat]:
    """Where radices are per layer, a Concat leaves at the smallest radix of its operands."""
    if target.per_channel_radix:
        return formats
    for node in model.graph.nodes:
        if node.op_type == "Concat":
            y = node.outputs[0]
            low = min(int(formats[t].radix.min()) for t in node.inputs if t in formats)
            formats[y] = replace(formats[y], radix=np.full_like(formats[y].radix, low))
    return formats
