"""Small runs whose reports are looked at, and a strict reader of their pages."""

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import knerex_jax as kx

HOSTILE = "<script>window.broken=1</script>\"'&{{7*7}}"
"""A node's name that is none of a page's business."""

VOID = {"meta", "br", "img", "input", "link", "hr", "path", "rect"}


def small_net(folder: Path) -> Path:
    """Two convolutions around an addition, with a hostile name, and a Softmax that has its own output."""
    rng = np.random.default_rng(0)
    weights = {"w1": (4, 3, 3, 3), "w2": (4, 4, 1, 1), "w3": (5, 4)}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name=HOSTILE, pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="branch"),
        helper.make_node("Add", ["b", "c"], ["d"], name="add"),
        helper.make_node("GlobalAveragePool", ["d"], ["e"], name="pool"),
        helper.make_node("Flatten", ["e"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w3"], ["y"], name="dense", transB=1),
    ]
    return _saved(folder, nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 5]}, weights, rng)


def host_net(folder: Path) -> Path:
    """A net with nodes that the NPU leaves to the processor."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv"),
        helper.make_node("CumSum", ["a", "two"], ["b"], name="sum"),
        helper.make_node("Relu", ["b"], ["y"], name="act"),
    ]
    axis = [numpy_helper.from_array(np.int64(2), "two")]
    rng = np.random.default_rng(1)
    return _saved(folder, nodes, {"x": [1, 2, 4, 4]}, {"y": [1, 3, 4, 4]}, {"w": (3, 2, 1, 1)}, rng, axis)


def _saved(
    folder: Path, nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any], weights: dict[str, Any],
    rng: np.random.Generator, more: list[onnx.TensorProto] | None = None,
) -> Path:  # fmt: skip
    values = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), t) for t, s in weights.items()]
    ends = [
        [helper.make_tensor_value_info(t, TensorProto.FLOAT, s) for t, s in side.items()] for side in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "net", *ends, initializer=[*values, *(more or [])])
    path = folder / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def run(net: Callable[[Path], Path], folder: Path, **options: Any) -> kx.PTQResult:
    path = net(folder)
    shape = [d.dim_value for d in onnx.load(path).graph.input[0].type.tensor_type.shape.dim][1:]
    data = np.random.default_rng(2).normal(size=(12, *shape)).astype(np.float32)
    return kx.run_ptq(p_onnx=path, np_txt={"x": list(data)}, p_output=folder / "out", platform="720", **options)


def page_of(result: kx.PTQResult) -> str:
    return result.paths["report_html"].read_text(encoding="utf-8")


def data_of(result: kx.PTQResult) -> dict[str, Any]:
    return json.loads(result.paths["report_json"].read_text(encoding="utf-8"))


class Page(HTMLParser):
    """A page read strictly: every element is closed in order; text outside scripts, and what elements point to.

    Attributes:
      text: what a reader without JavaScript sees, with template elements (which a browser does not show) left out.
      tags: how often each element occurs.
      sources: values of attributes by which a browser loads something.
      ids: of elements.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.tags: dict[str, int] = {}
        self.sources: list[str] = []
        self.ids: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.sources += [v or "" for k, v in attrs if k in ("src", "href", "data", "action", "srcset")]
        self.ids += [v or "" for k, v in attrs if k == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open and self.open.pop() == tag, f"{tag} is closed out of order"

    def handle_data(self, data: str) -> None:
        if not {"script", "style", "template", "title"}.intersection(self.open):
            self.words.append(data)
