"""Functions told apart by their code and by what they read."""

import jax
import jax.numpy as jnp
import numpy as np

from knerex_jax.data.identity import of_function

SHIFT = 10.0


class Thing:
    pass


def factory(shift):
    return lambda ours, theirs, labels: jnp.mean((ours["y"] - shift) ** 2)


def reads_global(ours, theirs, labels):
    return jnp.mean(ours["y"] - SHIFT)


def reads_other(ours, theirs, labels):
    return reads_global(ours, theirs, labels)


def test_equal_code_and_values_are_one_function():
    assert of_function(factory(1.0)) == of_function(factory(1.0)) is not None
    assert of_function(factory(np.arange(3))) == of_function(factory(np.arange(3)))


def test_what_a_function_reads_tells_it_from_others(monkeypatch):
    others = [factory(1.0), factory(2.0), factory(1), factory(np.arange(3)), reads_global, reads_other]
    found = [of_function(f) for f in others]
    assert None not in found
    assert len(set(found)) == len(found)
    before = [of_function(reads_global), of_function(reads_other)]
    monkeypatch.setitem(reads_global.__globals__, "SHIFT", 11.0)
    after = [of_function(reads_global), of_function(reads_other)]
    assert before[0] != after[0] and before[1] != after[1]


def test_compiled_functions_are_what_they_compile():
    assert of_function(jax.jit(factory(1.0))) == of_function(factory(1.0))
    assert of_function(jax.jit(factory(2.0))) != of_function(factory(1.0))


def test_what_cannot_be_told_from_another_has_no_identity():
    assert of_function(factory(Thing())) is None
    assert of_function(Thing()) is None
