"""The official ONNX backend suite on our backend, and the table of what it finds."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import onnx
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

from knerex_jax.onnx_backend import KnerexBackend, KnerexRep
from knerex_jax.ops.host import RANDOM

_PLAIN = frozenset(
    getattr(onnx.TensorProto, name)
    for name in (
        "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64",
        "FLOAT16", "FLOAT", "DOUBLE", "COMPLEX64", "COMPLEX128",
    )
)  # fmt: skip

_KINDS = {
    "NodeModel": "node",
    "SimpleModel": "simple",
    "PyTorchOperatorModel": "pytorch-operator",
    "PyTorchConvertedModel": "pytorch-converted",
    "RealModel": "real",
}
"""How the runner calls the parts of the suite -> how the loader does."""


@dataclass(frozen=True)
class Case:
    """One case of the suite.

    Attributes:
      name: as in the suite, without the device.
      kind: the part of the suite it belongs to.
      outside: what it has that plain tensor programs have not; None if nothing.
      run: the runner's own function; takes a test object that it ignores.
    """

    name: str
    kind: str
    outside: str | None
    run: Callable[[Any], Any]


@dataclass(frozen=True)
class Finding:
    """One row of the table.

    Attributes:
      case: its name.
      subject: the operator that ran on the host; "" if the case fails.
      reason: why it ran there, or how it fails.
    """

    case: str
    subject: str
    reason: str


class _Recorder(KnerexBackend):
    """Keeps the last model it prepared."""

    last: KnerexRep | None = None

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> KnerexRep:
        """As in the backend."""
        _Recorder.last = super().prepare(model, device, **kwargs)
        return _Recorder.last


def outside(model: onnx.ModelProto) -> str | None:
    """What a model has that plain tensor programs have not, by its types and operators; None if nothing."""
    for value in (*model.graph.input, *model.graph.output):
        if not value.type.HasField("tensor_type"):
            return f"{value.type.WhichOneof('value').removesuffix('_type')} inputs or outputs"
        if value.type.tensor_type.elem_type not in _PLAIN:
            return f"{onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()} tensors"
    for node in model.graph.node:
        if any(a.HasField("g") or a.graphs for a in node.attribute):
            return "control flow by subgraphs"
        if node.domain == "ai.onnx.preview.training":
            return "training"
        if node.op_type in RANDOM:
            return "random values"
    return None


def official_cases() -> tuple[Case, ...]:
    """All cases of the official suite, on the CPU, by part and name."""
    classes = Runner(_Recorder, __name__).test_cases
    cases = []
    for part, kind in _KINDS.items():
        functions = vars(classes[f"OnnxBackend{part}Test"])
        for source in sorted(load_model_tests(kind=kind), key=lambda c: c.name):
            left_out = None if kind == "real" else outside(source.model or onnx.load(f"{source.model_dir}/model.onnx"))
            cases.append(Case(source.name, kind, left_out, functions[f"{source.name}_cpu"]))
    return tuple(cases)


def findings(case: Case) -> tuple[Finding, ...]:
    """Runs a case: how it fails, or which operators ran on the host; nothing if it passes without the host."""
    _Recorder.last = None
    try:
        case.run(None)
    except Exception as error:  # of any kind: it is what the table reports
        said = next((line for line in str(error).splitlines() if line.strip()), "")
        return (Finding(case.name, "", _cell(f"{type(error).__name__}: {said}")),)
    host = _Recorder.last.host_nodes if _Recorder.last is not None else ()
    reasons = {node.op_type: node.reason for node in host}
    return tuple(Finding(case.name, op_type, _cell(reason)) for op_type, reason in sorted(reasons.items()))


def document(cases: Iterable[Case], found: Iterable[Finding]) -> str:
    """The table as a Markdown page."""
    cases, found = tuple(cases), tuple(found)
    failing = {f.case for f in found if not f.subject}
    host = {f.case for f in found if f.subject}
    parts = [("operators, plain tensors", [c for c in cases if c.kind == "node" and c.outside is None])]
    parts += [("operators, others", [c for c in cases if c.kind == "node" and c.outside is not None])]
    parts += [(_TITLES[kind], [c for c in cases if c.kind == kind]) for kind in _TITLES]
    rows = [
        f"| {title} | {len(names)} | {len(names - failing)} | {len(names - failing - host)} |"
        for title, part in parts
        if (names := {c.name for c in part})
    ]
    others = Counter(c.outside for c in cases if c.kind == "node" and c.outside is not None)
    reasons = ", ".join(f"{reason} ({count})" for reason, count in sorted(others.items()))
    groups: dict[tuple[str, str], list[str]] = {}
    for f in sorted(found, key=lambda f: (f.subject, f.reason, f.case)):
        groups.setdefault((f.subject, f.reason), []).append(f.case)
    lines = [_HEAD.format(version=onnx.__version__, others=reasons), *rows, _FAILING]
    lines += [f"| {reason} | {', '.join(names)} |" for (op, reason), names in groups.items() if not op]
    lines += [_HOST]
    lines += [f"| {op} | {reason} | {', '.join(names)} |" for (op, reason), names in groups.items() if op]
    return "\n".join(lines) + "\n"


def findings_in(page: str) -> tuple[Finding, ...]:
    """The findings that a page of `document` states."""
    _, failing, host = re.split(r"^## .*$", page, flags=re.MULTILINE)
    rows = [("", *cells) for cells in _cells(failing)] + _cells(host)
    return tuple(Finding(name, op, reason) for op, reason, names in rows for name in names.split(", "))


def _cells(section: str) -> list[tuple[str, ...]]:
    """The rows of a table below its head."""
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines]


def _cell(text: str) -> str:
    """A text that can stand in a cell."""
    return " ".join(text.replace("|", "/").split())


_TITLES = {
    "simple": "simple models",
    "pytorch-operator": "PyTorch operators",
    "pytorch-converted": "PyTorch models",
    "real": "light models (ResNet-50, DenseNet-121, ...)",
}

_HEAD = """# The official ONNX backend suite

Written by `scripts/backend_table.py`; do not edit. Suite of onnx {version}, its own runner and tolerances, on the CPU.
"native" passes without the host fallback (onnx's reference evaluator). The other operator cases are: {others}.

| part | cases | pass | native |
|---|---|---|---|"""

_FAILING = """
## What does not pass

| how | cases |
|---|---|"""

_HOST = """
## What runs on the host

| operator | why | cases |
|---|---|---|"""
