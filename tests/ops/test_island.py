"""What is refused before it can fail on the host in the middle of a run."""

import numpy as np
import pytest
from helpers import samples
from onnx_text import model_of
from planning import plan

import knerex_jax as kx
from knerex_jax.ops.island import host_call
from knerex_jax.program.island import evaluate


def refused(text: str, words: str) -> None:
    model = model_of(text)
    with pytest.raises(kx.UnsupportedOpError, match=words):
        plan(model, samples(model, 2))
    with pytest.raises(kx.UnsupportedOpError, match=words):
        kx.analyze(model, {t: list(a) for t, a in samples(model, 2).items()}, kx.PTQConfig())


def test_a_form_that_the_reference_does_not_run():
    text = "(float[1,4,3,5] x) => (float[1,2,1,3] z) <int64[1,2,1,3] i = {0,1,2,0,1,2}>"
    refused(
        f"{text} {{ [pick] y = GatherElements<axis = 2>(x, i) z = Neg(y) }}",
        r"(?s)reference of GatherElements in onnx .* does not run on these operands.*where: node pick.*fix:   cut",
    )


def test_a_result_of_another_shape(monkeypatch):
    def short(node, opset, feeds):
        return [v[..., :1] for v in evaluate(node, opset, feeds)]

    monkeypatch.setattr("knerex_jax.ops.island.evaluate", short)
    refused(
        "(float[1,4] x) => (float[1,4] z) <int64 one = {1}> { [sum] y = CumSum(x, one) z = Neg(y) }",
        r"(?s)reference of CumSum .* gives shapes \[\(1, 1\)\] instead of \[\(1, 4\)\].*where: node sum",
    )


def test_a_missing_result(monkeypatch):
    monkeypatch.setattr("knerex_jax.ops.island.evaluate", lambda *args: evaluate(*args)[:1])
    refused(
        "(float[1,4] x) => (float[1,2] z, int64[1,2] k) <int64[1] two = {2}> { [top] y, k = TopK(x, two) z = Neg(y) }",
        r"(?s)TopK .* gives shapes \[\(1, 2\)\] instead of \[\(1, 2\), \(1, 2\)\].*where: node top",
    )


def test_the_call_is_complete_with_its_constants():
    model = model_of("(float[1,4] x) => (float[1,4] z) <int64 one = {1}> { y = CumSum(x, one) z = Neg(y) }")
    call = host_call(model.graph.nodes[0], model, kx.REGISTRY)
    ((name, axis),) = call.constants.items()
    assert axis.dtype == np.int64 and axis == 1 and len(call.digest) == 64
    (made,) = evaluate(call.node, call.opset, {"x": np.float64([[1, 2, 3, 4]]), name: axis})
    assert made.tolist() == [[1, 3, 6, 10]]
