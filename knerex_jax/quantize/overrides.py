"""Overrides of a plan: which tensors a `quan_config` means, and what of it a model and a platform can honour.

* Later and more specific entries win, key by key: `all_nodes` < `output_nodes` < glob patterns < names.
* `bitwidth` is the width of the tensor, and so of what its readers read. Weights keep theirs.
* `min` and `max` replace the measured range: absmax = max(|min|, |max|), as it is. Neither headroom nor the guard of
  small channels is added; one number holds for every channel, the largest of a list for a tensor that has one format;
  the end that is not given stays as measured. What only renames the places of a tensor, and a rescale slot behind it,
  take its range with it.
* `scale` alone: the radix is the largest that covers the range at that scale. `radix` alone: the scale stays what it
  would be without, so a radix that is too large saturates. Both: taken as they are.
* What cannot be honoured leaves the plan as it is, and the plan says so in a note.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from knerex_jax.errors import ConfigError
from knerex_jax.fixedpoint.qformat import MAX_RADIX, MIN_RADIX
from knerex_jax.graph.ir import Graph, Model, Node
from knerex_jax.ops.constant import is_constant_operand
from knerex_jax.quantize.note import Note
from knerex_jax.quantize.quan_config import read_quan_config
from knerex_jax.quantize.structure import Structure, channel_count
from knerex_jax.suggest import nearest
from knerex_jax.targets.spec import Target

UNCHANGED = "unchanged"
_MOST_NAMES = 5  # in a note
_MOST_SCALE = 2.0**16  # with any radix, scale * 2**radix and its inverse are normal float32 numbers
_ALL, _OUTPUTS, _GLOB, _NAME = range(4)

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Overrides:
    """What a user imposes on single tensors.

    Attributes:
      widths: tensor -> significant bits.
      low: tensor -> float64 [1] or [C], smallest value its format has to cover.
      high: tensor -> largest.
      scale: tensor -> float32 [1] or [C].
      radix: tensor -> int32 [1] or [C].
      notes: what could not be honoured, and what was understood differently.
    """

    widths: Mapping[str, int] = field(default_factory=dict)
    low: Arrays = field(default_factory=dict, hash=False)
    high: Arrays = field(default_factory=dict, hash=False)
    scale: Arrays = field(default_factory=dict, hash=False)
    radix: Arrays = field(default_factory=dict, hash=False)
    notes: tuple[Note, ...] = ()

    @property
    def imposed(self) -> frozenset[str]:
        """Those with a scale or radix."""
        return frozenset(self.scale.keys() | self.radix.keys())

    @property
    def numbers(self) -> frozenset[str]:
        """Tensors with a scale, radix or range that the user chose."""
        return self.imposed | self.low.keys() | self.high.keys()

    def free(self) -> "Overrides":
        """The same without scales and radices."""
        return replace(self, scale={}, radix={})

    def withdraw(self, tensors: Iterable[str], why: str, *, lists_only: bool = False) -> "Overrides":
        """Without the numbers imposed on these tensors, or only without lists of scales and radices; each is a note."""
        gone, notes, kept = frozenset(tensors), list(self.notes), {}
        formats, ranges = (("scale", "scale"), ("radix", "radix")), (("min", "low"), ("max", "high"))
        for key, name in formats if lists_only else (*formats, *ranges):
            asked: Arrays = getattr(self, name)
            kept[name] = {t: v for t, v in asked.items() if t not in gone or (lists_only and len(v) == 1)}
            notes.extend(refusal(t, key, v, why) for t, v in asked.items() if t not in kept[name])
        return replace(self, **kept, notes=tuple(notes))


NO_OVERRIDES = Overrides()


def refusal(tensor: str, key: str, value: Any, why: str) -> Note:
    """A request that leaves the plan as it is."""
    return Note(tensor, f"{key}={_text(value)}", UNCHANGED, why)


def merge_notes(notes: Sequence[Note]) -> tuple[Note, ...]:
    """One note for the same request, refused for the same reason, on several tensors."""
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for n in notes:
        grouped.setdefault((n.requested, n.applied, n.why), []).append(n.where)
    return tuple(
        Note(", ".join(names[:_MOST_NAMES]) + (f" and {extra} more" if extra > 0 else ""), *rest)
        for rest, names in grouped.items()
        for extra in (len(names) - _MOST_NAMES,)
    )


def resolve(quan_config: Any, model: Model, structure: Structure, target: Target) -> Overrides:
    """The overrides that a `quan_config` means on a model.

    Args:
      quan_config: in any form that `read_quan_config` takes.
      model: decomposed, without rescale slots.
      structure: its constraint problem.
      target: platform.

    Raises:
      ConfigError: malformed, or a selector names nothing in the model; with a suggestion.
    """
    asked: dict[str, dict[str, Any]] = {}
    notes: list[Note] = []
    selected = [(*_select(s, model, structure), s, entry) for s, entry in (read_quan_config(quan_config) or {}).items()]
    for rank, tensors, selector, entry in sorted(selected, key=lambda found: found[0]):
        visible = dict.fromkeys(t for t in tensors if t in structure.axes)
        if not visible:
            notes.append(Note(selector, _listed(entry), UNCHANGED, "no tensor with a format is meant"))
        for t in visible:
            seen = _visible(t, model.graph, structure)
            if seen != t and rank < _GLOB:
                continue  # what is fused into it is meant by itself
            if seen != t and seen not in visible:
                why = f"{model.graph.producer[seen].name} is fused into it; only what leaves both has a format"
                notes.append(Note(t, _listed(entry), f"to {seen}", why))
            asked.setdefault(seen, {}).update(entry)
    return _checked(asked, notes, model, structure, target)


def _select(selector: str, model: Model, structure: Structure) -> tuple[int, tuple[str, ...]]:
    """How specific a selector is, and the tensors it means."""
    graph = model.graph
    made = (*graph.inputs, *graph.producer)
    if selector == "all_nodes":
        computed = [n for n in graph.nodes if not is_constant_operand(n, model)]
        return _ALL, _outputs(computed)
    if selector == "output_nodes":
        return _OUTPUTS, graph.outputs
    if selector in graph.node:
        return _NAME, _outputs([graph.node[selector]])
    if selector in made:
        return _NAME, (selector,)
    if stem := [n for n in graph.nodes if selector in n.origin]:
        return _NAME, _outputs(stem)
    if any(c in selector for c in "*?["):
        nodes = [n for n in graph.nodes if any(fnmatchcase(name, selector) for name in (n.name, *n.origin))]
        return _GLOB, (*_outputs(nodes), *(t for t in made if fnmatchcase(t, selector)))
    origins = (o for n in graph.nodes for o in n.origin)
    fix = nearest(
        selector,
        ("all_nodes", "output_nodes", *graph.node, *made, *origins),
        "use the name of a node or tensor of the decomposed model, or of a node of yours that is still part of it",
        count=1,
    )
    raise ConfigError(f"no node or tensor is called {selector!r}", where="quan_config", fix=fix)


def _outputs(nodes: Iterable[Node]) -> tuple[str, ...]:
    return tuple(t for n in nodes for t in n.outputs if t)


def _visible(tensor: str, graph: Graph, structure: Structure) -> str:
    """The tensor itself, or the output of the activation that is fused behind it."""
    if tensor not in structure.hidden:
        return tensor
    return graph.node[structure.fused[graph.producer[tensor].name]].outputs[0]


def _checked(
    asked: Mapping[str, Mapping[str, Any]], notes: list[Note], model: Model, structure: Structure, target: Target
) -> Overrides:
    """Keeps what these tensors can have on this platform, and notes the rest."""
    kept: dict[str, dict[str, Any]] = {key: {} for key in ("scale", "radix", "min", "max", "bitwidth")}
    for t, entry in asked.items():
        whys = _refused(t, entry, model, structure, target)
        notes.extend(refusal(t, key, value, whys[key]) for key, value in entry.items() if key in whys)
        for key, value in entry.items():
            if key not in whys:
                kept[key][t] = value
    return Overrides(
        widths=kept["bitwidth"],
        low={t: np.asarray(v, np.float64) for t, v in kept["min"].items()},
        high={t: np.asarray(v, np.float64) for t, v in kept["max"].items()},
        scale={t: np.asarray(v, np.float32) for t, v in kept["scale"].items()},
        radix={t: np.asarray(v, np.int32) for t, v in kept["radix"].items()},
        notes=tuple(notes),
    )


def _refused(
    tensor: str, entry: Mapping[str, Any], model: Model, structure: Structure, target: Target
) -> dict[str, str]:
    """Key -> why the tensor cannot have what is asked, as far as that needs no range."""
    count = channel_count(model.graph, tensor, structure.axes[tensor])
    whys: dict[str, str] = {}
    for key, value in entry.items():
        if key == "bitwidth":
            if value not in target.data_bits:
                whys[key] = f"platform {target.name} has no data of {value} bits"
        elif len(value) > 1 and count == 1:
            whys[key] = "the tensor has no channels"
        elif len(value) not in (1, count):
            whys[key] = f"the tensor has {count} channels"
        elif key == "radix" and len(value) > 1 and not target.per_channel_radix:
            whys[key] = f"platform {target.name} has one radix per tensor"
        elif key == "radix" and not all(MIN_RADIX <= r <= MAX_RADIX for r in value):
            whys[key] = f"a radix lies within {MIN_RADIX} .. {MAX_RADIX}"
        elif key == "scale" and not all(1 / _MOST_SCALE <= s <= _MOST_SCALE for s in value):
            whys[key] = f"a scale lies within {1 / _MOST_SCALE:g} .. {_MOST_SCALE:g}"
        elif key in ("min", "max") and max(map(abs, value)) > structure.bounds.get(tensor, np.inf):
            whys[key] = f"the values never exceed {structure.bounds[tensor]:g}"
    ends = [entry[key] for key in ("min", "max") if key in entry and key not in whys]
    if len(ends) == 2 and (np.asarray(ends[0]) > np.asarray(ends[1])).any():
        whys |= {"min": "min is larger than max", "max": "min is larger than max"}
    return whys


def _listed(entry: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_text(value)}" for key, value in entry.items())


def _text(value: Any) -> str:
    """A number, or a few of many."""
    values = np.atleast_1d(np.asarray(value)).tolist()
    shown = ", ".join(f"{v:g}" for v in values[:_MOST_NAMES]) + (", ..." if len(values) > _MOST_NAMES else "")
    return shown if len(values) == 1 else f"[{shown}]"
