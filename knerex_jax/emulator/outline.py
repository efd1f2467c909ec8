"""Instructions as functions of their own: equal ones are traced and lowered once, and samples share the batch axis.

The compiler puts each call back in its place, so nothing of it is left in what runs. A chain of 500 nodes: 0.4 s of
tracing instead of 3.3 s.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import msgspec
from jax import Array, lax
from jax.custom_batching import custom_vmap

from knerex_jax.emulator.methods import Method, Scale, Shift
from knerex_jax.emulator.order import is_turned, outside
from knerex_jax.ops.layout import stored
from knerex_jax.program.primitives import Primitive

Rule = Callable[..., Array]
"""(instruction, method, its parameters, operands) -> codes, in the axes that the instruction computes in."""


def computed(
    rule: Rule, i: Primitive, method: Method, c: Mapping[str, Any], operands: Sequence[Array], *, shared: bool
) -> Array:
    """What a rule makes of an instruction; `shared`: several instructions read it, compute it once."""
    alike = msgspec.structs.replace(i, name="", nodes=(), inputs=(), output="")
    return _function(rule, alike, method, shared)(_read(c, method), *operands)


@lru_cache(maxsize=4096)
def _function(rule: Rule, i: Primitive, method: Method, shared: bool) -> Callable[..., Array]:
    def compute(c: Mapping[str, Any], *operands: Array) -> Array:
        made = outside(i, rule(i, method, c, *operands))
        return stored(made) if shared else made

    return jax.jit(_joined(i, compute))


_SHIFTS: dict[Shift, tuple[str, ...]] = {"none": (), "add": ("right", "round"), "any": ("n",)}
_SCALES: dict[Scale, tuple[str, ...]] = {"split": ("m", "round", "right"), "presplit": ("m", "pre", "round", "right")}


def _read(c: Mapping[str, Any], method: Method) -> dict[str, Any]:
    """What a method reads of an instruction's parameters; the others would cost as arguments of its function."""

    def shift(made: Mapping[str, Any], form: Shift) -> dict[str, Any]:
        return {k: made[k] for k in ("m", *_SHIFTS[form]) if k in made}

    kept = dict(c)
    for key, form in {"n1": method.entry, "n": method.shift}.items():
        if key in c:
            kept[key] = shift(c[key], form)
    for key in {"operands", "n_in"} & set(c):
        kept[key] = [shift(made, method.entry) for made in c[key]]
    if "out" in c:
        scaled = "m" in c["out"] and not method.wide
        kept["out"] = {k: c["out"][k] for k in (_SCALES[method.scale] if scaled else ("m", "n")) if k in c["out"]}
    return kept


def joined_images(turn: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A function of images [1, ...] that under vmap sees the samples on the batch axis, as instructions do.

    Between two instructions it then meets no reshape that would keep the compiler from cancelling turns.
    """
    mapped = custom_vmap(turn)

    @mapped.def_vmap
    def _rule(size: int, batched: Any, x: Array) -> tuple[Array, bool]:
        return _on_batch_axis(turn, x) if x.shape[1] == 1 else jax.vmap(turn)(x), True

    return mapped


def _on_batch_axis(compute: Callable[..., Array], *operands: Array) -> Array:
    """What is made of operands [n, 1, ...] whose samples join the batch axis."""
    size = len(operands[0])
    made = compute(*(lax.reshape(x, (size, *x.shape[2:])) for x in operands))
    return lax.reshape(made, (size, 1, *made.shape[1:]))


def _joined(i: Primitive, compute: Callable[..., Array]) -> Callable[..., Array]:
    """Gives what computes an instruction on images its rule under vmap: samples join the batch axis of the model.

    By itself every operation would get one more axis, and every constant be spread over it apart. Plans, and operands
    that not all samples have, are mapped as usual.
    """
    mapped = custom_vmap(compute)

    @mapped.def_vmap
    def _rule(size: int, batched: Any, c: Any, *operands: Array) -> tuple[Array, bool]:
        ranks = {x.ndim - 1 for x in operands}
        alike = len(ranks) == 1 and all(batched[1:]) and not any(jax.tree.leaves(batched[0]))
        if alike and is_turned(i, *ranks) and all(x.shape[1] == 1 for x in operands):
            return _on_batch_axis(partial(compute, c), *operands), True
        axes = jax.tree.map(lambda b: 0 if b else None, batched)
        return jax.vmap(compute, axes, axis_size=size)(c, *operands), True

    return mapped
