"""Cutting, reshaping, renaming; and whether two models do the same."""

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx_text import proto_of

import knerex_jax as kx
from knerex_jax.cli import knerex, main

NET = """(float[1, 3, 8, 8] x, float[1, 4] z) => (float[1, 4] y, float[1, 4] p) <float[4, 3, 3, 3] w> {
  c = Conv <pads = [1, 1, 1, 1]> (x, w)
  r = Relu(c)
  g = GlobalAveragePool(r)
  f = Flatten(g)
  y = Add(f, z)
  p = Softmax(y)
}"""


@pytest.fixture
def net(tmp_path):
    onnx.save(proto_of(NET), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def names(values) -> list[str]:
    return [v.name for v in values]


def shape(value) -> list[int]:
    return [d.dim_value for d in value.type.tensor_type.shape.dim]


def test_a_tail_and_a_head_are_cut(net):
    tail = kx.edit_onnx(net, outputs=["f"])
    assert names(tail.graph.input) == ["x"] and names(tail.graph.output) == ["f"] and len(tail.graph.node) == 4
    head = kx.edit_onnx(net, inputs=["f", "z"], outputs=["y"])
    assert names(head.graph.input) == ["f", "z"] and [n.op_type for n in head.graph.node] == ["Add"]
    assert not head.graph.initializer and shape(head.graph.input[0]) == [1, 4]
    middle = kx.edit_onnx(onnx.load(net), inputs=["c"], outputs=["g", "r"])
    assert [n.op_type for n in middle.graph.node] == ["Relu", "GlobalAveragePool"]
    for made in (tail, head, middle):
        onnx.checker.check_model(made, full_check=True)
    x, z = np.ones((1, 3, 8, 8), np.float32), np.ones((1, 4), np.float32)
    (whole,) = kx.kneron_inference([x, z], ["x", "z"], onnx_file=net, reordering=["y"])
    onnx.save(tail, net.with_name("tail.onnx"))
    (part,) = kx.kneron_inference([x], ["x"], onnx_file=net.with_name("tail.onnx"))
    np.testing.assert_allclose(part + 1, whole, rtol=1e-6)


def test_shapes_follow_and_names_change(net):
    made = kx.edit_onnx(
        net, net.with_name("made.onnx"), outputs=["r"], shapes={"x": (2, 3, 6, 10)}, rename={"x": "image", "r": "map"}
    )
    assert names(made.graph.input) == ["image"] and names(made.graph.output) == ["map"]
    assert shape(made.graph.output[0]) == [2, 4, 6, 10]
    assert onnx.load(net.with_name("made.onnx")) == made
    swapped = kx.edit_onnx(net, rename={"x": "z", "z": "x"})
    assert names(swapped.graph.input) == ["z", "x"] and swapped.graph.node[0].input[0] == "z"
    opened = kx.edit_onnx(net, outputs=["f"], shapes={"x": (0, 3, 8, 8)})
    assert shape(opened.graph.output[0])[0] == 0


def test_subgraphs_are_renamed_and_followed():
    proto = proto_of("""(float[1, 4] x, bool[1] k) => (float[1, 4] y) {
      a = Relu(x)
      s = Squeeze(k)
      y = If(s) <then_branch = then () => (float[1, 4] t) { t = Neg(a) }, else_branch = other () => (float[1, 4] e)
        { e = Identity(a) }>
    }""")
    made = kx.edit_onnx(proto, rename={"a": "b"})
    inner = [a.g.node[0].input[0] for n in made.graph.node for a in n.attribute]
    assert inner == ["b", "b"] and made.graph.node[0].output[0] == "b"
    with pytest.raises(kx.ModelError, match="also depend on 'x'"):
        kx.edit_onnx(proto, inputs=["s"], outputs=["y"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"outputs": ["ff"]}, r"no tensor 'ff'[\s\S]*did you mean 'f'"),
        ({"outputs": ["w"]}, "'w' is a weight"),
        ({"inputs": ["f"]}, "also depend on 'z'"),
        ({"inputs": ["f", "z", "x"]}, "no output depends on 'x'"),
        ({"shapes": {"image": (1, 3, 8, 8)}}, "no input 'image'"),
        ({"shapes": {"x": (3, 8, 8)}}, "has 3 axes"),
        ({"shapes": {"z": (1, 5)}}, "contradict"),
        ({"rename": {"q": "b"}}, "no tensor 'q'"),
        ({"rename": {"x": "z"}}, "the name 'z' is taken"),
        ({"rename": {"x": "a", "z": "a"}}, "the name 'a' is taken"),
    ],
)
def test_what_cannot_be_edited(net, arguments, said):
    with pytest.raises(kx.ModelError, match=said):
        kx.edit_onnx(net, net.with_name("made.onnx"), **arguments)
    assert [p.name for p in net.parent.iterdir()] == ["net.onnx"]


def test_equal_and_different_models(net):
    same = kx.compare_onnx(net, onnx.load(net), samples=2)
    assert same.alike and same.samples == 2 and [o.name for o in same.outputs] == ["y", "p"]
    assert same.outputs[0].snr_db == float("inf") and same.to_json()["outputs"][0]["snr_db"] == "inf"
    other = proto_of(NET, seed=5)
    apart = kx.compare_onnx(net, other)
    assert not apart.alike and apart.outputs[0].max_abs > 0.1 and apart.outputs[0].snr_db < 20
    assert kx.compare_onnx(net, other, tolerance=100).alike
    renamed = kx.edit_onnx(net, rename={"y": "a", "p": "b"})
    assert kx.compare_onnx(net, renamed).alike
    ends = kx.edit_onnx(net, outputs=["y"])
    with pytest.raises(kx.ModelError, match="the outputs differ"):
        kx.compare_onnx(net, ends)
    with pytest.raises(kx.ModelError, match="no input 'z'"):
        kx.compare_onnx(kx.edit_onnx(net, outputs=["f"]), net)


def test_no_samples_compare_nothing(net):
    with pytest.raises(kx.ConfigError, match="one sample at least"):
        kx.compare_onnx(net, net, samples=0)


def test_given_inputs_and_values_that_are_no_numbers(net, tmp_path):
    data = {"x": list(np.zeros((4, 3, 8, 8), np.float32)), "z": list(np.ones((4, 4), np.float32))}
    found = kx.compare_onnx(net, proto_of(NET, seed=5), data, samples=3)
    assert found.alike and found.samples == 3  # zeros hide the weights
    opened = proto_of("(float[1, 3, H, 8] x) => (float[1, 3, H, 8] y) { y = Relu(x) }")
    assert kx.compare_onnx(opened, opened, [np.ones((3, 5, 8), np.float32)]).outputs[0].shape == (1, 3, 5, 8)
    with pytest.raises(kx.ModelError, match=r"axis 2 \('H'\)"):
        kx.compare_onnx(opened, opened)
    logs = [proto_of(f"(float[1, 4] x) => (float[1, 4] y) {{ a = Abs(x)  y = Log({t}) }}") for t in ("x", "a")]
    assert kx.compare_onnx(logs[0], logs[0]).alike and not kx.compare_onnx(*logs).alike
    counts = [proto_of(f"(int64[1, 4] x) => (int64[1, 4] y) {{ y = {op}(x, x) }}") for op in ("Add", "Sub")]
    assert kx.compare_onnx(counts[0], counts[0]).alike and not kx.compare_onnx(*counts, tolerance=100).alike


def test_the_commands(net):
    run, made = CliRunner(), net.with_name("made.onnx")
    done = run.invoke(knerex, ["edit", str(net), "-o", str(made), "--outputs", "f,r", "--rename", "f=g2"])
    assert done.exit_code == 0 and "output g2 [1, 4]" in done.output and "4 nodes" in done.output
    done = run.invoke(knerex, ["optimize", str(net), "--json"])
    assert done.exit_code == 0 and json.loads(done.output)["comparison"]["alike"] is True
    optimized = net.with_name("net_optimized.onnx")
    assert run.invoke(knerex, ["compare", str(net), str(optimized), "--samples", "2"]).exit_code == 0
    onnx.save(proto_of(NET, seed=5), made)
    np.savez(net.with_name("data.npz"), x=np.ones((2, 3, 8, 8), np.float32), z=np.ones((2, 4), np.float32))
    done = run.invoke(knerex, ["compare", str(net), str(made), "--data", str(net.with_name("data.npz")), "--json"])
    found = json.loads(done.output)
    assert done.exit_code == 1 and found["alike"] is False and found["samples"] == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["edit", "net.onnx"], "nothing to do"),
        (["edit", "net.onnx", "--rename", "x"], "write it as OLD=NEW"),
        (["edit", "net.onnx", "--shape", "x:1,b"], "cannot read the shape"),
        (["edit", "none.onnx", "--outputs", "f"], "cannot read the model"),
        (["compare", "net.onnx", "none.onnx"], "none.onnx"),
        (["optimize", "net.onnx", "--skipped-optimizers", "x"], "no optimizer 'x'"),
    ],
)
def test_faults_are_one_screen_of_text(net, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(net.parent)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    printed = capsys.readouterr()
    assert ended.value.code == 1 and said in printed.err and len(printed.err.splitlines()) < 12
    assert [p.name for p in net.parent.iterdir()] == ["net.onnx"]
