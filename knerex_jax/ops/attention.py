"""Attention and what goes with it: RotaryEmbedding, TensorScatter."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import onnx
from jax import Array

from knerex_jax.ops.opdef import OpDef


@dataclass(frozen=True)
class AttentionAttrs:
    """As in ONNX; head counts are needed for inputs of rank 3. A window bound of -1 is open.

    qk_matmul_output_mode says what the fourth output shows: 0 the scaled product, 1 behind softcap, 2 behind mask and
    bias, 3 behind softmax.
    """

    is_causal: int = 0
    kv_num_heads: int | None = None
    q_num_heads: int | None = None
    qk_matmul_output_mode: int = 0
    scale: float | None = None
    softcap: float = 0.0
    softmax_precision: int | None = None
    left_window_size: int = -1
    right_window_size: int = -1


@dataclass(frozen=True)
class RotaryAttrs:
    """rotary_embedding_dim 0 turns the whole head; num_heads is needed for inputs of rank 3."""

    interleaved: int = 0
    num_heads: int = 0
    rotary_embedding_dim: int = 0


@dataclass(frozen=True)
class TensorScatterAttrs:
    """mode: linear or circular."""

    axis: int = -2
    mode: str = "linear"


def _split_heads(x: Array, heads: int) -> Array:
    """[B, L, heads * size] -> [B, heads, L, size]."""
    return jnp.swapaxes(x.reshape(*x.shape[:2], heads, -1), 1, 2)


def _bias(
    a: AttentionAttrs, dtype: Any, queries: int, keys: int, mask: Array | None, past: int, valid: Array | None
) -> Array:
    """What is added to the product, 0 or minus infinity where no mask says otherwise; rank 2 to 4.

    `past` keys precede the queries; `valid` [B] counts the keys in use, of which the last ones belong to the queries.
    """
    never = jnp.asarray(-np.inf, dtype)
    bias = jnp.zeros((queries, keys), dtype)
    if mask is not None:
        mask = jnp.where(mask, jnp.zeros((), dtype), never) if mask.dtype == jnp.bool_ else mask.astype(dtype)
        missing = [(0, 0)] * (mask.ndim - 1) + [(0, keys - mask.shape[-1])]
        bias = bias + jnp.pad(mask, missing, constant_values=never)
    place = jnp.arange(keys)
    at: Array = jnp.arange(queries)[:, None] + (past if valid is None else valid.reshape(-1, 1, 1, 1) - queries)
    after = place - at
    limits = ((bool(a.is_causal), 0), (a.right_window_size >= 0, a.right_window_size))
    for applies, limit in limits:
        bias = jnp.where(after <= limit, bias, never) if applies else bias
    if a.left_window_size >= 0:
        bias = jnp.where(-after <= a.left_window_size, bias, never)
    if valid is not None:
        bias = jnp.where(place < valid.reshape(-1, 1, 1, 1), bias, never)
    return bias


def _safe_softmax(logits: Array, bias: Array) -> Array:
    """Softmax over the last axis that gives zeros where the bias excludes every key."""
    nowhere = jnp.isneginf(bias.max(-1, keepdims=True))
    peak = logits.max(-1, keepdims=True)
    e = jnp.exp(logits - jnp.where(jnp.isneginf(peak), 0, peak))
    total = e.sum(-1, keepdims=True)
    return jnp.where(nowhere, 0, e / jnp.where(total == 0, 1, total))


def _attention(
    a: AttentionAttrs, q: Array, k: Array, v: Array, mask: Array | None = None, past_key: Array | None = None,
    past_value: Array | None = None, valid: Array | None = None,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    dtype, flat = q.dtype, q.ndim == 3
    if flat:
        assert a.q_num_heads and a.kv_num_heads, "Attention of rank 3 needs q_num_heads and kv_num_heads"
        q, k, v = _split_heads(q, a.q_num_heads), _split_heads(k, a.kv_num_heads), _split_heads(v, a.kv_num_heads)
    past = 0
    if past_key is not None and past_value is not None:
        past = past_key.shape[2]
        k, v = jnp.concatenate([past_key, k], axis=2), jnp.concatenate([past_value, v], axis=2)
    present_key, present_value = k, v
    if (repeats := q.shape[1] // k.shape[1]) > 1:
        k, v = jnp.repeat(k, repeats, axis=1), jnp.repeat(v, repeats, axis=1)
    # The root of the scale on both sides keeps half precision in range.
    factor = jnp.asarray(np.sqrt(1 / np.sqrt(q.shape[-1]) if a.scale is None else a.scale), dtype)
    product = jnp.einsum("bhqd,bhkd->bhqk", q * factor, k * factor, precision="highest")
    capped = product
    if a.softcap > 0:
        cap = jnp.asarray(a.softcap, dtype)
        capped = jnp.tanh(product / cap) * cap
    bias = _bias(a, dtype, q.shape[2], k.shape[2], mask, past, valid)
    logits = capped + bias
    working = onnx.helper.tensor_dtype_to_np_dtype(a.softmax_precision) if a.softmax_precision else dtype
    share = _safe_softmax(logits.astype(working), bias).astype(dtype)
    y = jnp.einsum("bhqk,bhkd->bhqd", share, v, precision="highest").astype(dtype)
    if flat:
        y = jnp.swapaxes(y, 1, 2).reshape(y.shape[0], y.shape[2], -1)
    return y, present_key, present_value, (product, capped, logits, share)[a.qk_matmul_output_mode]


def _rotary(a: RotaryAttrs, x: Array, cos: Array, sin: Array, position_ids: Array | None = None) -> Array:
    heads = jnp.swapaxes(x, 1, 2) if x.ndim == 4 else x.reshape(*x.shape[:2], a.num_heads, -1)
    size = a.rotary_embedding_dim or heads.shape[-1]
    turned, kept = heads[..., :size], heads[..., size:]
    if position_ids is not None:
        cos, sin = cos[position_ids], sin[position_ids]
    cos, sin = cos[:, :, None], sin[:, :, None]
    first, second = (turned[..., 0::2], turned[..., 1::2]) if a.interleaved else jnp.split(turned, 2, axis=-1)
    real, imaginary = cos * first - sin * second, sin * first + cos * second
    if a.interleaved:
        turned = jnp.stack([real, imaginary], axis=-1).reshape(turned.shape)
    else:
        turned = jnp.concatenate([real, imaginary], axis=-1)
    y = jnp.concatenate([turned, kept], axis=-1)
    return jnp.swapaxes(y, 1, 2) if x.ndim == 4 else y.reshape(x.shape)


def _tensor_scatter(a: TensorScatterAttrs, cache: Array, update: Array, start: Array | None = None) -> Array:
    moved, update = (jnp.moveaxis(v, a.axis, 1) for v in (cache, update))
    batch = jnp.arange(cache.shape[0])[:, None]
    place = jnp.arange(update.shape[1]) + (jnp.zeros((), batch.dtype) if start is None else start[:, None])
    if a.mode == "circular":
        place = place % moved.shape[1]
    moved = moved.at[batch, jnp.broadcast_to(place, (cache.shape[0], update.shape[1]))].set(update)
    return jnp.moveaxis(moved, 1, a.axis)


OPS = (
    OpDef(op_type="Attention", attrs=AttentionAttrs, to_float=_attention),
    OpDef(op_type="RotaryEmbedding", attrs=RotaryAttrs, to_float=_rotary),
    OpDef(op_type="TensorScatter", attrs=TensorScatterAttrs, to_float=_tensor_scatter),
)
