"""Operators of the user's own through the whole flow, as documented."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import knerex_jax as kx
from knerex_jax.ops.gemm import GEMM
from knerex_jax.ops.opdef import NoAttrs, OpDef

PAGE = Path(__file__).parents[1] / "docs" / "custom_operators.md"
NET = '<ir_version: 10, opset_import: ["" : 21, "my.domain" : 1]>\nnet (float[1,8] x) => (float[1,8] y) '


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> SimpleNamespace:
    """What the page's Python leaves behind, run from top to bottom in an empty folder."""
    folder = tmp_path_factory.mktemp("page")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    names: dict = {"__name__": "__page__"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), names)
    return SimpleNamespace(folder=folder, **names)


@pytest.fixture
def saved(tmp_path):
    def save(body: str) -> Path:
        onnx.save(parser.parse_model(NET + body), tmp_path / "net.onnx")
        return tmp_path / "net.onnx"

    return save


def data(count: int = 16) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(3).normal(size=(count, 8)).astype(np.float32)}


def test_float_run_is_the_function(page):
    weight = np.float32([1, -1, 2, 0.5, 1, 1, -2, 1, 0.5, 1, 1, -1]).reshape(4, 3)
    a = np.einsum("oi,nihw->nohw", weight, page.data)
    expected = np.sign(a) * np.maximum(np.abs(a) - 0.25, 0)
    np.testing.assert_allclose(page.real, expected, atol=1e-5)


def test_fixed_run_is_close_to_float_and_every_code_follows_from_the_table(page):
    assert page.result.snr_db["y"] > 28
    model = kx.FixedModel.load(page.folder / page.result.paths["bie"])
    codes = model.run({"x": page.data}, "fixed", taps=("a", "y"))
    a, y = (page.result.plan.formats[t] for t in ("a", "y"))
    real = codes["a"] / a.factor[0]
    shrunk = np.sign(real) * np.maximum(np.abs(real) - 0.25, 0)
    expected = np.clip(np.rint(shrunk * y.factor[0]), -128, 127)
    np.testing.assert_array_equal(codes["y"], expected.astype(np.int8))


def test_it_is_on_the_cpu_unless_its_support_says_otherwise(page):
    rows = kx.check_model(page.folder / "net.onnx", "720", ops=page.ops).nodes
    assert [(n.name, n.where) for n in rows] == [("conv", "NPU"), ("shrink", "CPU")]
    assert page.result.report["cpu_nodes"] == ["shrink"] and page.result.report["islands"] == []
    npu = page.table_op("SoftShrink", lambda a, x: x, lambda a, x: x, attrs=page.ShrinkAttrs,
                        support={"720": lambda node, model: None})  # fmt: skip
    ops = {**kx.REGISTRY, "SoftShrink": npu}
    assert [n.where for n in kx.check_model(page.folder / "net.onnx", "720", ops=ops).nodes] == ["NPU", "NPU"]
    assert kx.check_model(page.folder / "net.onnx", "520", ops=ops).nodes[1].where == "CPU"


def test_stage_files_hold_the_operator_and_can_be_read_back(page):
    scale = page.result.plan.formats["y"].scale[0]
    for stage, factor in (("origin", 1), ("decomposed", 1), ("scaled", scale)):
        path = page.folder / page.result.paths[stage]
        proto = onnx.load(path)
        (node,) = (n for n in proto.graph.node if n.op_type == "SoftShrink")
        assert node.domain == "my.domain" and [(a.name, a.f) for a in node.attribute] == [("width", 0.25)]
        assert {o.domain for o in proto.opset_import} == {"", "my.domain"}
        again = kx.FloatModel.load(path, ops=page.ops).run({"x": page.data})["y"]
        np.testing.assert_allclose(again / factor, page.real, atol=1e-5)


def test_stages_one_by_one_give_the_same_program(page):
    config = kx.PTQConfig()
    model = kx.decompose_onnx(page.folder / "net.onnx", config, ops=page.ops)
    ranges = kx.analyze(model, {"x": list(page.data)}, config, ops=page.ops)
    planned = kx.make_plan(model, ranges, config, ops=page.ops)
    assert planned.program == page.result.planned.program
    (note,) = page.result.plan.notes  # of the files for other software
    assert note.where == "qdq.onnx" and "SoftShrink" in note.why and "qdq_onnx" not in page.result.paths
    assert {**page.result.plan.to_json(), "notes": []} == planned.plan.to_json()
    (y,) = kx.kneron_inference([page.data], ["x"], onnx_file=page.folder / "net.onnx", ops=page.ops)
    np.testing.assert_array_equal(y, page.real)


def test_a_rule_of_its_own_moves_codes(page):
    assert [i.rule for i in page.shuffled.planned.program.instructions] == ["mac", "move", "act"]
    model = kx.FixedModel.load(page.folder / page.shuffled.paths["bie"])
    codes = model.run({"x": page.data}, "fixed", taps=("a", "b"))
    shift = page.shuffled.plan.formats["a"].radix[[0, 2, 1, 3]] - page.shuffled.plan.formats["b"].radix
    assert (shift == 0).all()
    np.testing.assert_array_equal(codes["b"], codes["a"][:, [0, 2, 1, 3]])
    assert page.shuffled.snr_db["y"] > 30


def test_a_weighted_operator_with_the_name_of_a_standard_one(tmp_path):
    def doubled(node, model):
        form = GEMM.mac(replace(node, attrs=GEMM.attrs()), model)
        return replace(form, weight=2 * form.weight, restore=lambda w: w.T / 2)

    mine = replace(GEMM, attrs=NoAttrs, to_float=lambda attrs, x, w: 2 * x @ w, mac=doubled)
    weight = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    proto = parser.parse_model(NET + "{ a = my.domain.Gemm(x, w) y = Relu(a) }")
    proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    onnx.save(proto, tmp_path / "net.onnx")
    ops = {**kx.REGISTRY, "my.domain::Gemm": mine}
    result = kx.run_ptq(
        p_onnx=tmp_path / "net.onnx", np_txt={"x": list(data()["x"])}, data_analysis_pct=1.0,
        p_output=tmp_path / "out", ops=ops,
    )  # fmt: skip
    assert [i.rule for i in result.planned.program.instructions] == ["mac"]
    assert result.planned.program.instructions[0].act == "relu" and result.snr_db["y"] > 25
    scaled = kx.FloatModel.load(result.paths["scaled"], ops=ops).run(data())["y"]
    expected = np.maximum(2 * data()["x"] @ weight, 0)
    np.testing.assert_allclose(scaled / result.plan.formats["y"].scale, expected, atol=1e-4)


def test_an_operator_nobody_knows_says_how_to_register_it(saved, tmp_path):
    path = saved("{ [first] a = Relu(x) [mine] y = my.domain.Mine(a) }")
    expected = r"(?s)operator Mine of domain 'my.domain' has no rule.*where: node mine.*Mine.: MY_OP"
    for run in (
        lambda: kx.load_onnx(path),
        lambda: kx.FloatModel.load(path),
        lambda: kx.decompose_onnx(path),
        lambda: kx.run_ptq(p_onnx=path, np_txt=data(), p_output=tmp_path / "out"),
    ):
        with pytest.raises(kx.UnsupportedOpError, match=expected):
            run()
    report = kx.check_model(path, "720")
    assert [n.where for n in report.nodes] == ["NPU", "unsupported"] and "MY_OP" in report.nodes[1].suggestion


def test_an_operator_without_an_integer_rule_is_refused_before_calibration(saved, tmp_path):
    path = saved("{ [first] a = Relu(x) [mine] y = my.domain.Mine(a) }")
    ops = {**kx.REGISTRY, "my.domain::Mine": OpDef(op_type="Mine", to_float=lambda attrs, x: x + 1)}
    x = data()["x"]
    np.testing.assert_array_equal(kx.FloatModel.load(path, ops=ops).run({"x": x})["y"], np.maximum(x, 0) + 1)

    def unread():
        raise AssertionError("calibration began")
        yield

    expected = "(?s)my.domain::Mine has no integer rule.*where: node mine.*to_program"
    with pytest.raises(kx.UnsupportedOpError, match=expected):
        kx.run_ptq(p_onnx=path, np_txt=unread(), p_output=tmp_path / "out", ops=ops)
    assert not (tmp_path / "out").exists()


def test_report_is_plain_json(page):
    report = json.loads((page.folder / page.result.paths["report_json"]).read_text())
    assert report["nodes"][-1]["op"] == "SoftShrink" and report["nodes"][-1]["primitive"] == "table"
