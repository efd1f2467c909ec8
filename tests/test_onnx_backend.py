"""The official suite, by its own runner, and what it does not ask for."""

import warnings
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from knerex_jax.conformance import Case, document, findings, findings_in, official_cases
from knerex_jax.errors import ModelError, UnsupportedOpError
from knerex_jax.onnx_backend import KnerexBackend
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.opdef import OpDef

PAGE = Path(__file__).parents[1] / "docs" / "onnx_backend.md"
CHUNKS = 48
HOW = "write it again: python scripts/backend_table.py"


@cache
def cases() -> tuple[Case, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the suite's own code
        return official_cases()


@pytest.mark.filterwarnings("ignore")  # of the suite's own code and of onnx's evaluator
@pytest.mark.parametrize(
    "chunk",  # the light models of whole networks come last
    [*range(CHUNKS - 2), *(pytest.param(k, marks=pytest.mark.long) for k in range(CHUNKS - 2, CHUNKS))],
)
def test_official_suite_gives_what_the_page_states(chunk, tmp_path, monkeypatch):
    monkeypatch.setenv("ONNX_HOME", str(tmp_path))
    mine = cases()[len(cases()) * chunk // CHUNKS : len(cases()) * (chunk + 1) // CHUNKS]
    stated = {f for f in findings_in(PAGE.read_text()) if f.case in {c.name for c in mine}}
    found = {f for case in mine for f in findings(case)}
    assert found - stated == set(), f"the page does not say so; {HOW}"
    assert stated - found == set(), f"no longer true; {HOW}"


def test_nearly_all_plain_cases_pass_without_the_host():
    found = findings_in(PAGE.read_text())
    assert document(cases(), found) == PAGE.read_text(), HOW
    failing, host = {f.case for f in found if not f.subject}, {f.case for f in found if f.subject}
    plain = {c.name for c in cases() if c.kind == "node" and c.outside is None}
    assert len(plain) > 1500
    assert len(plain - failing) >= 0.98 * len(plain)
    assert len(plain - failing - host) >= 0.9 * len(plain)
    others = {c.name for c in cases() if c.kind != "node" and c.outside != "training"}
    assert len(others) > 140 and not others & failing


def model(text: str, opset: int = 21) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}, "custom" : 1]>\nnet {text}')


def test_every_run_may_have_other_shapes_and_computed_shape_inputs():
    rep = KnerexBackend.prepare(model("(float[n] x, int64[2] s) => (float[a,b] y) { y = Reshape(x, s) }"))
    for shape in ((2, 3), (4, 5)):
        x = np.arange(np.prod(shape), dtype=np.float32)
        (y,) = rep.run([x, np.array(shape)])
        np.testing.assert_array_equal(y, x.reshape(shape))
    assert rep.host_nodes == ()


def test_host_nodes_are_named_with_the_reason():
    text = "(float[n] x) => (int64[1,m] y, float[n] z) { z = Neg(x) y = NonZero(z) }"
    rep = KnerexBackend.prepare(model(text))
    y, z = rep.run(np.array([0, 1, 0, 2], np.float32))
    np.testing.assert_array_equal(y, [[1, 3]])
    np.testing.assert_array_equal(z, np.array([0, -1, 0, -2], np.float32))
    ((name, op_type, reason),) = [(h.name, h.op_type, h.reason) for h in rep.host_nodes]
    assert (name, op_type) == ("NonZero_1", "NonZero") and "no rule" in reason


def test_subgraphs_read_outer_tensors_on_the_host():
    text = """(float[n] x, bool c) => (float[n] y) {
        k = Neg(x)
        y = If(c) <then_branch = a () => (float[n] p) { p = Abs(k) }, else_branch = b () => (float[n] q) { q = Exp(k) }>
    }"""
    x = np.array([1, 2], np.float32)
    (y,) = KnerexBackend.run_model(model(text), [x, np.array(True)])
    np.testing.assert_array_equal(y, x)


def test_one_node():
    node = onnx.helper.make_node("TopK", ["x", "k"], ["v", "i"], axis=0)
    values, indices = KnerexBackend.run_node(node, [np.array([3, 1, 2], np.int16), np.array([2])])
    assert values.dtype == np.int16 and indices.dtype == np.int64
    np.testing.assert_array_equal(values, [3, 2])
    np.testing.assert_array_equal(indices, [0, 2])


def test_devices():
    assert KnerexBackend.supports_device("CPU")
    assert not KnerexBackend.supports_device("CPU:1000000")
    assert not KnerexBackend.supports_device("TPU")


def test_inputs_that_do_not_fit():
    rep = KnerexBackend.prepare(model("(float[2] x) => (float[2] y) { y = Neg(x) }"))
    x = np.ones(2, np.float32)
    with pytest.raises(ModelError, match="2 values for 1 inputs"):
        rep.run([x, x])
    with pytest.raises(ModelError, match="(?s)no input 'z'.*the inputs are: x"):
        rep.run({"z": x})


def test_operator_of_another_domain_says_how_to_register_it():
    source = model("(float[2] x) => (float[2] y) { y = custom.Mine(x) }")
    rep = KnerexBackend.prepare(source)
    with pytest.raises(UnsupportedOpError, match=r"(?s)operator Mine of domain 'custom'.*node Mine_0.*Mine.: MY_OP"):
        rep.run(np.ones(2, np.float32))
    mine = OpDef(op_type="Mine", to_float=lambda a, x: x + 1)
    (y,) = KnerexBackend.prepare(source, ops={**REGISTRY, "Mine": mine}).run(np.ones(2, np.float32))
    np.testing.assert_array_equal(y, np.full(2, 2, np.float32))


def test_shapes_that_do_not_fit():
    rep = KnerexBackend.prepare(model("(float[m] x, float[n] z) => (float[k] y) { y = Add(x, z) }"))
    with pytest.raises(ModelError, match=r"(?s)Add does not accept \(x: \(2,\), z: \(3,\)\).*node Add_0"):
        rep.run([np.ones(2, np.float32), np.ones(3, np.float32)])
