"""Outputs that nothing computes: inputs, constants, and the same tensor more than once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import knerex_jax as kx
from knerex_jax.nef.container import load_nef
from knerex_jax.nef.segments import ioinfo
from knerex_jax.npu.isa import Lifetime

TYPES = {
    "x": (TensorProto.FLOAT, (1, 3, 8, 8)),
    "i": (TensorProto.INT64, (1, 3)),
    "y": (TensorProto.FLOAT, (1, 6, 8, 8)),
    "c": (TensorProto.FLOAT, (1, 6, 4, 4)),
    "k": (TensorProto.INT64, (1, 3)),
    "s": (TensorProto.FLOAT, (1, 6, 4, 4)),
    "w": (TensorProto.FLOAT, (6, 3, 3, 3)),
}
X, INDEX, Y, C, K, S, W = (helper.make_tensor_value_info(name, *kind) for name, kind in TYPES.items())
RNG = np.random.default_rng(0)
CONSTANTS = {
    "w": (RNG.normal(size=(6, 3, 3, 3)) * 0.2).astype(np.float32),
    "c": RNG.normal(size=(1, 6, 4, 4)).astype(np.float32),
    "k": np.array([[3, -5, 7]]),
}
CONV = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])


def renamed(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    made = onnx.ValueInfoProto()
    made.CopyFrom(value)
    made.name = name
    return made


@dataclass(frozen=True)
class Case:
    """A model, and in which segment its outputs are.

    Attributes:
      nodes: of the model.
      inputs, outputs: of the model.
      segments: of each output.
      exact: outputs that equal the float model's.
    """

    nodes: list[onnx.NodeProto]
    inputs: list[onnx.ValueInfoProto]
    outputs: list[onnx.ValueInfoProto]
    segments: list[str]
    exact: tuple[str, ...] = field(default=())

    def write(self, path: Path) -> Path:
        used = {t for n in self.nodes for t in n.input} | {v.name for v in self.outputs}
        held = [numpy_helper.from_array(v, t) for t, v in CONSTANTS.items() if t in used]
        graph = helper.make_graph(self.nodes, "net", self.inputs, self.outputs, held)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, path)
        return path


def identity(x: str, y: str) -> onnx.NodeProto:
    return helper.make_node("Identity", [x], [y])


CASES: dict[str, Callable[[], Case]] = {
    "inputs": lambda: Case([CONV], [X, INDEX], [Y, X, INDEX], ["output", "input", "input"], ("i",)),
    "input alone": lambda: Case([], [X], [X], ["input"]),
    "constants": lambda: Case(
        [CONV, helper.make_node("Relu", ["c"], ["r"])], [X], [Y, renamed(C, "r"), C, K],
        ["output", "weight", "weight", "output"], ("k",),
    ),
    "a constant that is read, a weight": lambda: Case(
        [CONV, helper.make_node("GlobalAveragePool", ["y"], ["g"]), helper.make_node("Add", ["g", "c"], ["s"])],
        [X], [S, C, W],
        ["output", "weight", "weight"],
    ),
    "twice": lambda: Case(
        [CONV, identity("y", "b"), identity("x", "a")], [X], [Y, renamed(Y, "b"), Y, renamed(X, "a"), X],
        ["output", "output", "output", "output", "input"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "platform", "bits"), [
    *((name, "720", 8) for name in CASES), ("inputs", "520", 8), ("constants", "730", 15), ("inputs", "730", 15),
])  # fmt: skip
def test_from_the_model_to_every_artefact(tmp_path, name, platform, bits):
    case, rng = CASES[name](), np.random.default_rng(1)
    path = case.write(tmp_path / "net.onnx")
    names = [v.name for v in case.inputs]
    data = {"x": list(rng.normal(size=(6, 1, 3, 8, 8)).astype(np.float32)), "i": list(rng.integers(-9, 9, (6, 1, 3)))}
    wide = {} if bits == 8 else dict.fromkeys(
        ("datapath_bitwidth_mode", "weight_bitwidth_mode", "model_in_bitwidth_mode", "model_out_bitwidth_mode"), "int16"
    )  # fmt: skip
    made = kx.run_ptq(
        p_onnx=path, np_txt={t: data[t] for t in names}, platform=platform, p_output=tmp_path / "out", mode=3, **wide
    )
    assert made.bit_true_match is True and made.report["bit_true_match"]["samples"] == 6
    assert not [n for n in made.plan.notes if "compiled" in n.requested or "ONNX" in n.requested]
    wanted, sample = [v.name for v in case.outputs], [data[t][0] for t in names]

    float_values = ort.InferenceSession(path).run(None, dict(zip(names, sample, strict=True)))
    fixed = {
        kind: kx.kneron_inference(sample, names, bie_file=made.paths["bie"], data_type=kind)
        for kind in ("float", "fixed")
    }
    for kind, values in fixed.items():
        simulated = kx.kneron_inference(sample, names, nef_file=made.paths["nef"], data_type=kind)
        for a, b in zip(values, simulated, strict=True):
            np.testing.assert_array_equal(a, b)
    model = kx.kneron_inference(sample, names, onnx_file=path)
    for t, reference, own, value, codes in zip(
        wanted, float_values, model, fixed["float"], fixed["fixed"], strict=True
    ):
        own, value, codes = (v.reshape(reference.shape) for v in (own, value, codes))
        np.testing.assert_allclose(own, reference, atol=1e-5)
        if t in case.exact:
            np.testing.assert_array_equal(value, reference)
            continue
        step = 1 / float(made.plan.formats[t].scale[0] * 2.0 ** made.plan.formats[t].radix[0])
        np.testing.assert_allclose(codes * step, value, rtol=1e-6)
        inside = np.abs(codes) < 2 ** (bits - 1) - 1
        few = 1 if t in "xaitcrw" else 6
        assert (np.abs(value - reference)[inside] <= few * 0.51 * step).all(), t

    info = ioinfo(load_nef(made.paths["nef"]).models[0].program)
    assert [o["name"] for o in info["output"]] == wanted
    assert [o["segment"] for o in info["output"]] == case.segments

    session = ort.InferenceSession(made.paths["integer_onnx"])
    given = dict(zip(names, sample, strict=True))
    found = dict(zip([o.name for o in session.get_outputs()], session.run(None, given), strict=True))
    for t, value, codes in zip(wanted, fixed["float"], fixed["fixed"], strict=True):
        if t in case.exact:
            np.testing.assert_array_equal(found[t].ravel(), value.ravel())
            continue
        np.testing.assert_array_equal(found[f"{t}_codes"].ravel(), codes.ravel())
        np.testing.assert_array_equal(found[f"{t}_output" if t in names else t].ravel(), value.ravel())
    for stage in ("decomposed", "integer_onnx", "qdq_onnx"):
        onnx.checker.check_model(onnx.load(made.paths[stage]))
    for artefact in ("bie", "nef"):
        (verdict,) = kx.verify(made.paths[artefact])
        assert verdict.equal and {t for t in wanted if t not in case.exact} <= set(verdict.tensors)


def test_the_check_of_such_models(tmp_path):
    for name in ("constants", "twice"):
        case = CASES[name]()
        report = kx.check_model(case.write(tmp_path / "net.onnx"), "720")
        assert report.supported and len(report.nodes) == len(case.nodes)


def test_what_an_output_reads_stays_to_the_end(tmp_path):
    path = CASES["constants"]().write(tmp_path / "net.onnx")
    data = {"x": list(np.random.default_rng(1).normal(size=(4, 1, 3, 8, 8)).astype(np.float32))}
    made = kx.run_ptq(p_onnx=path, np_txt=data, platform="720", p_output=tmp_path, mode=1)
    program = load_nef(made.paths["nef"]).models[0].program
    end = len(program.commands)
    for port in program.outputs:
        first = program.lifetimes[port.buffer].first
        assert program.lifetimes[port.buffer] == Lifetime(first, end)
        assert (first == -1) == (program.buffers[port.buffer].memory == "weight")


def test_outputs_come_in_the_order_of_the_model(tmp_path):
    """Not in that of their names: x is an input, a an output of the last node."""
    case = Case([CONV, identity("y", "a")], [X], [Y, X, renamed(Y, "a")], [])
    path, x = (
        case.write(tmp_path / "net.onnx"),
        np.random.default_rng(2).normal(size=(4, 1, 3, 8, 8)).astype(np.float32),
    )
    assert list(kx.FloatModel.load(path).run({"x": x[:, 0]})) == ["y", "x", "a"]
    made = kx.run_ptq(p_onnx=path, np_txt={"x": list(x)}, platform="720", p_output=tmp_path, mode=1)
    assert list(kx.FixedModel.load(made.paths["bie"]).run({"x": x[:, 0]}, "fixed")) == ["y", "x", "a"]
    assert list(kx.NpuModel.load(made.paths["nef"]).run({"x": x[:, 0]}, "fixed")) == ["y", "x", "a"]
    values = kx.kneron_inference([x[0]], ["x"], bie_file=made.paths["bie"], reordering=["a", "y"])
    assert [v.shape for v in values] == [(1, 6, 8, 8)] * 2
