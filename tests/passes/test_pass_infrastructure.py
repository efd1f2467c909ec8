from dataclasses import replace

import pytest
from onnx_text import assert_same_function, model_of, ops_of

from knerex_jax.errors import ModelError
from knerex_jax.graph.ir import Model, TensorType
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.opdef import OpDef
from knerex_jax.passes.base import GraphBuilder, check_model, rewrite, run_passes
from knerex_jax.passes.cleanup import remove_dead, remove_identity
from knerex_jax.passes.pipeline import DECOMPOSE

CHAIN = "(float[4] x) => (float[4] y) { t = Identity(x) u = Relu(t) y = Exp(u) }"


@rewrite("Relu")
def relu_to_sigmoid(b, node):
    """Changes the function, which no check can see."""
    b.replace(node)("Sigmoid", node.inputs[0], output=node.outputs[0])


@rewrite("Sigmoid")
def sigmoid_to_relu(b, node):
    """Undoes it."""
    b.replace(node)("Relu", node.inputs[0], output=node.outputs[0])


@pytest.mark.smoke
def test_same_object_means_no_change():
    model = model_of("(float[4] x) => (float[4] y) { y = Relu(x) }")
    assert remove_dead(model) is model and remove_identity(model) is model
    assert run_passes(model, DECOMPOSE) is model


def test_passes_that_undo_each_other_are_noticed():
    with pytest.raises(AssertionError, match="do not settle: .*relu_to_sigmoid, sigmoid_to_relu"):
        run_passes(model_of(CHAIN), (relu_to_sigmoid, sigmoid_to_relu))


def test_error_names_the_pass_and_those_before_it():
    def fails(model, registry):
        raise ModelError("no", where="node a", fix="b")

    with pytest.raises(ModelError, match=r"node a \(pass fails, after remove_identity\)"):
        run_passes(model_of(CHAIN), (remove_identity, fails))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda g: replace(g, outputs=("u",)), "inputs or outputs changed"),
        (lambda g: replace(g, nodes=g.nodes[::-1]), "nothing has made yet"),
        (lambda g: replace(g, nodes=(*g.nodes, replace(g.nodes[0]))), "share a name"),
        (lambda g: replace(g, nodes=(*g.nodes, replace(g.nodes[0], name="new"))), "made twice"),
        (lambda g: replace(g, types={**g.types, "u": TensorType("float32", (3,))}), "type of u"),
        (lambda g: replace(g, nodes=g.nodes[:-1]), "nothing makes"),
    ],
)
def test_broken_graph_is_noticed(damage, message):
    def breaks(model, registry):
        return Model(damage(model.graph), model.constants)

    with pytest.raises(AssertionError, match=message) as caught:
        run_passes(model_of(CHAIN), (breaks,))
    assert caught.value.__notes__ == ["in pass breaks"]


def test_builder_answers_for_the_graph_as_it_now_is():
    model = model_of("(float[4] x) => (float[4] y, float[4] z) <float[4] c> { t = Relu(x) y = Add(t, c) z = Exp(t) }")
    b = GraphBuilder(model)
    relu, add, _ = model.graph.nodes
    assert b.private_producer("t") is None and b.producer("t", "Relu") is relu and b.producer("t", "Exp") is None
    assert b.constant("c") is model.constants["c"] and b.constant("t") is None
    assert b.model() is model
    b.replace(add)("Relu", "t", output="y")
    assert [n.op_type for n in b.readers("t")] == ["Exp", "Relu"]
    built = b.model()
    assert ops_of(built) == "Relu Relu Exp" and not built.constants
    assert built.graph.nodes[1].name == add.name and built.graph.nodes[1].origin == add.origin


def test_bypass_keeps_names_of_outputs():
    model = model_of("(float[4] x) => (float[4] y) { t = Relu(x) u = Exp(t) y = Identity(t) z = Add(u, t) }")
    after = remove_identity(model)
    assert after.graph.outputs == ("y",) and ops_of(after) == "Relu"
    assert_same_function(model, after)


@pytest.mark.parametrize("apply", DECOMPOSE, ids=lambda p: p.__name__)
def test_every_pass_shows_before_and_after(apply):
    assert "Before:" in apply.__doc__ and "After:" in apply.__doc__


def test_builder_knows_the_callers_operators():
    @rewrite("Relu")
    def relu_to_mine(b, node):
        b.replace(node)("Mine", node.inputs[0], output=node.outputs[0])

    mine = OpDef(op_type="Mine", to_float=lambda attrs, x: x)
    model = model_of("(float[4] x) => (float[4] y) { y = Relu(x) }")
    assert ops_of(run_passes(model, (relu_to_mine,), {**REGISTRY, "Mine": mine})) == "Mine"


def test_check_accepts_models_of_the_user():
    check_model(model_of(CHAIN), REGISTRY)
