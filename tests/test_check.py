"""`knerex check`: where every node of the user's model runs, why, and what to do about it."""

import json
import runpy
from pathlib import Path

import onnx
import pytest
from onnx_text import proto_of
from real_models import REAL_MODELS

import knerex_jax as kx
from knerex_jax.check import CheckReport, check_model
from knerex_jax.cli import main
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.opdef import OpDef

ROOT = Path(__file__).parents[1]
CONV_NET = """
(float[1,3,8,8] x) => (float[1,8] y)
<float[4,3,3,3] w, float[4] s, float[4] v, float[8,64] g,
 int64[8] p = {0,0,1,1,0,0,1,1}, float lo = {0}, float hi = {6}>
{
  [pad] a = Pad(x, p)
  [conv] b = Conv(a, w)
  [norm] c = BatchNormalization(b, s, s, s, v)
  [relu] d = Clip(c, lo, hi)
  [drop] e = Dropout(d)
  [pool] f = MaxPool<kernel_shape=[2,2], strides=[2,2]>(e)
  [flat] h = Flatten(f)
  [fc] y = Gemm<transB=1>(h, g)
}
"""
LARGE_KERNEL = """
(float[1,3,20,20] x) => (float[?] y) <float[4,3,14,14] w, float[4] s, float[4] v>
{ [conv] a = Conv(x, w) [norm] b = BatchNormalization(a, s, s, s, v) [relu] y = Relu(b) }
"""
CUSTOM = """
(float[1,3,8,8] x) => (float[?] y, float[?] z)
{
  [before] a = Relu(x) [mine] b = custom.Mine(a) [after] y = Sigmoid(b)
  [beside] c = Tanh(x) [other] d = custom.Other(c) [last] z = Relu(d)
}
"""


@pytest.fixture
def saved(tmp_path):
    def save(text: str, opset: int = 21, *, named: bool = True) -> Path:
        proto = proto_of(text, opset)
        if not named:
            for node in proto.graph.node:
                node.name = ""
        onnx.save(proto, tmp_path / "net.onnx")
        return tmp_path / "net.onnx"

    return save


def rows(report: CheckReport) -> dict[str, str]:
    return {n.name: n.where for n in report.nodes}


def row(report: CheckReport, name: str):
    return next(n for n in report.nodes if n.name == name)


def test_every_node_of_the_users_model_has_a_line(saved):
    report = check_model(saved(CONV_NET), "720")
    assert rows(report) == {
        "pad": "fused", "conv": "NPU", "norm": "fused", "relu": "fused", "drop": "folded", "pool": "NPU",
        "flat": "NPU", "fc": "NPU",
    }  # fmt: skip
    assert {n.reason for n in report.nodes if n.where == "fused"} == {"into conv"}
    assert row(report, "flat").reason == "as Reshape"
    assert report.counts == {"NPU": 4, "fused": 3, "folded": 1} and report.supported


def test_what_the_platform_does_not_run_is_on_the_cpu_with_a_reason_and_a_rewrite(saved):
    flat = row(check_model(saved(CONV_NET), "520"), "flat")
    assert flat.where == "CPU" and "Reshape is not on the 520 NPU (integer rule on CPU)" in flat.reason
    assert flat.suggestion


def test_what_is_fused_into_a_node_on_the_cpu_is_there_too(saved):
    path = saved(LARGE_KERNEL)
    report = check_model(path, "520")
    assert rows(report) == {"conv": "CPU", "norm": "CPU", "relu": "CPU"}
    assert row(report, "conv").reason == "kernel 14 > 12 (integer rule on CPU)"
    assert row(report, "conv").suggestion.startswith("split the convolution")
    assert row(report, "relu").reason == "into conv, which is not on the NPU"
    assert rows(check_model(path, "730")) == {"conv": "NPU", "norm": "fused", "relu": "fused"}


def test_an_activation_that_the_platform_does_not_run_is_not_fused(saved):
    held = "<float[4,3,3,3] w, float lo = {-1}, float hi = {6}>"
    path = saved(f"(float[1,3,8,8] x) => (float[?] y) {held} {{ [conv] a = Conv(x, w) [clip] y = Clip(a, lo, hi) }}")
    report = check_model(path, "720")
    assert rows(report) == {"conv": "NPU", "clip": "CPU"} and "lower bound -1" in row(report, "clip").reason


def test_softmax_is_decomposed_where_all_of_its_parts_run(saved):
    path = saved("(float[1,8] x) => (float[1,8] y) { [soft] y = Softmax(x) }")
    for platform in ("530", "630", "730"):
        soft = row(check_model(path, platform), "soft")
        assert soft.where == "decomposed" and "Exp" in soft.reason and "ReduceSum" in soft.reason
    soft = row(check_model(path, "720"), "soft")
    assert soft.where == "CPU" and "Reciprocal is not on the 720 NPU" in soft.reason
    assert "behind the output" in soft.suggestion


def test_an_operator_without_an_integer_rule_runs_in_float(saved):
    path = saved("(float[1,8] x) => (float[1,8] y) <int64 a = {1}> { [sum] y = CumSum(x, a) }")
    found = row(check_model(path, "730"), "sum")
    assert found.where == "CPU" and found.reason == "CumSum is not on the 730 NPU (float on CPU)"


def test_upsample_is_judged_by_its_own_line(saved):
    held = "<float[4] s = {1,1,2,2}>"
    path = saved(f"(float[1,2,4,4] x) => (float[?] y) {held} {{ [up] y = Upsample(x, s) }}", 9)
    assert row(check_model(path, "720"), "up").where == "CPU"
    assert "both resized" in row(check_model(path, "720"), "up").reason


def test_all_unsupported_nodes_are_reported_at_once(saved):
    report = check_model(saved(CUSTOM), "720")
    expected = {"before": "NPU", "mine": "unsupported", "after": "unchecked", "beside": "NPU", "other": "unsupported"}
    assert rows(report) == {**expected, "last": "unchecked"} and not report.supported
    assert "domain 'custom'" in row(report, "mine").reason and "OpDef" in row(report, "mine").suggestion


def test_a_registered_operator_is_no_longer_unsupported(saved):
    mine = OpDef(op_type="Mine", to_float=lambda a, x: x)
    own = OpDef(op_type="Other", to_float=lambda a, x: x, support={"720": lambda node, model: None})
    report = check_model(saved(CUSTOM), "720", ops={**REGISTRY, "Mine": mine, "Other": own})
    assert report.supported and row(report, "after").where == "NPU"
    assert row(report, "mine").where == "CPU" and "not on the 720 NPU" in row(report, "mine").reason
    assert row(report, "other").where == "CPU" and "no integer rule" in row(report, "other").reason


def test_shapes_that_depend_on_the_data_are_unsupported(saved):
    text = "(float[1,8] x) => (int64[?,?] y, float[1,8] z) { [find] y = NonZero(x) [relu] z = Relu(x) }"
    report = check_model(saved(text), "720")
    assert rows(report) == {"find": "unsupported", "relu": "NPU"} and "depends on the data" in report.nodes[0].reason


def test_branches_that_read_what_is_unsupported_are_not_checked(saved):
    text = """
    (float[1,8] x, bool c) => (float[?,?] y)
    {
      [mine] a = custom.Mine(x)
      [branch] y = If(c) <
        then_branch = yes () => (float[1,8] p) { p = Relu(a) },
        else_branch = no () => (float[1,8] q) { q = Neg(x) }
      >
    }
    """
    assert rows(check_model(saved(text), "720")) == {"mine": "unsupported", "branch": "unchecked"}


def test_nodes_without_names_are_counted_through(saved):
    report = check_model(saved(CONV_NET, named=False), "720")
    assert list(rows(report)) == [
        "Pad_0", "Conv_1", "BatchNormalization_2", "Clip_3", "Dropout_4", "MaxPool_5", "Flatten_6", "Gemm_7",
    ]  # fmt: skip
    assert row(report, "Clip_3").reason == "into Conv_1"


def test_a_bound_model_can_be_checked_too(saved):
    path = saved(CONV_NET)
    ours, theirs = check_model(kx.load_onnx(path), "520"), check_model(path, "520")
    assert [n for n in theirs.nodes if n.where != "folded"] == [n for n in ours.nodes if n.where != "folded"]


def test_an_unknown_platform_and_an_open_shape_are_errors(saved):
    with pytest.raises(kx.ConfigError, match="520, 530"):
        check_model(saved(CONV_NET), "521")
    path = saved("(float[1,3,h,8] x) => (float[?] y) { y = Relu(x) }")
    with pytest.raises(kx.ModelError, match="--input-shape"):
        check_model(path, "720")
    assert check_model(path, "720", {"x": (1, 3, 8, 8)}).counts == {"NPU": 1}


def run(capsys, *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main(["check", *map(str, arguments)])
    return caught.value.code, capsys.readouterr().out


def test_command_prints_a_line_per_node(saved, capsys):
    code, out = run(capsys, saved(CONV_NET), "--platform", "720")
    assert code == 0 and "folded away: 1 Dropout" in out and "in total: 4 NPU, 3 fused, 1 folded" in out
    assert any(line.split()[:3] == ["conv", "Conv", "NPU"] for line in out.splitlines())


def test_command_fails_if_a_node_is_unsupported(saved, capsys):
    code, out = run(capsys, saved(CUSTOM), "--platform", "720")
    assert code == 1 and "2 unsupported" in out


def test_json_holds_the_report(saved, capsys):
    path = saved("(float[1,3,h,8] x) => (float[?] y) { [relu] y = Relu(x) }")
    code, out = run(capsys, path, "--platform", "520", "--json", "--input-shape", "x:1,3,4,8")
    assert code == 0 and json.loads(out) == check_model(path, "520", {"x": (1, 3, 4, 8)}).to_json()
    assert json.loads(out)["nodes"] == [
        {"name": "relu", "op_type": "Relu", "where": "NPU", "reason": "", "suggestion": ""}
    ]


@pytest.mark.models
def test_a_real_model_on_two_platforms():
    path = REAL_MODELS["A1"]().path
    on_720, on_520 = check_model(path, "720"), check_model(path, "520")
    assert set(on_720.counts) == {"NPU", "fused"} and len(on_720.nodes) == len(onnx.load(path).graph.node)
    assert [n.op_type for n in on_520.nodes if n.where == "CPU"] == ["Flatten"]


@pytest.mark.smoke
def test_the_page_of_platforms_is_up_to_date():
    made = runpy.run_path(str(ROOT / "scripts" / "platform_table.py"))["platform_table"]()
    assert (ROOT / "docs" / "platforms.md").read_text() == made, "run scripts/platform_table.py"
