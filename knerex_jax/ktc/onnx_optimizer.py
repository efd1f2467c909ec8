"""The published functions on float models."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from knerex_jax.errors import ConfigError, ModelError
from knerex_jax.ktc.notes import tell, tell_one
from knerex_jax.prepare.edit import edit_onnx
from knerex_jax.prepare.optimize import optimize_onnx
from knerex_jax.prepare.protos import input_names

TAIL = tuple("Reshape Identity Transpose Flatten Dropout Constant Squeeze Unsqueeze Softmax Expand".split())
"""Operators that `eliminate_tail` cuts off the end of a model, with those of other domains."""

_FOLDS = ("batch_norm_into_conv", "batch_norm_into_gemm", "batch_norm_into_next_conv")

_ELSEWHERE = {
    "keras2onnx_flow": "export with tf2onnx",
    "caffe2onnx_flow": "export with another converter",
    "tflite2onnx_flow": "export with tf2onnx",
    "onnx1_4to1_6": "nothing is needed: opsets 7 to 28 are read as they are",
    "delete_nodes": "use knerex_jax.edit_onnx",
    "delete_inputs": "use knerex_jax.edit_onnx",
    "delete_outputs": "use knerex_jax.edit_onnx(outputs=...)",
    "cut_graph_from_nodes": "use knerex_jax.edit_onnx(outputs=...)",
    "remove_nodes_with_types": "use knerex_jax.edit_onnx(outputs=...)",
    "change_input_output_shapes": "use knerex_jax.edit_onnx(shapes=...)",
    "rename_output": "use knerex_jax.edit_onnx(rename=...)",
    "add_conv_after": "it is not needed: rescales are inserted where they help",
    "add_bn_after": "it is not needed: rescales are inserted where they help",
}
"""Functions of earlier releases -> what to do instead."""


def __getattr__(name: str) -> object:
    """Says what to use in place of a function that is not here."""
    raise AttributeError(f"onnx_optimizer has no {name}: {_ELSEWHERE.get(name, 'see docs/ktc.md')}")


def onnx2onnx_flow(
    m: onnx.ModelProto,
    disable_fuse_bn: bool = False,
    bgr: bool = False,
    norm: bool = False,
    rgba2yynn: bool = False,
    eliminate_tail: bool = False,
    opt_matmul: bool = False,
    opt_720: bool = False,
    duplicate_shared_weights: bool = False,
    bn_on_skip: bool = False,
    bn_before_add: bool = False,
) -> onnx.ModelProto:
    """Optimizes a float model; its function stays the same, apart from what `bgr`, `norm` and `eliminate_tail` ask for.

    Args:
      m: not changed.
      disable_fuse_bn: keeps BatchNormalization out of the weights.
      bgr: the model takes the other order of colours: a 1x1 Conv turns them.
      norm: the model takes its input less 0.5: a 1x1 Conv adds it.
      rgba2yynn: not available: its numbers are not public.
      eliminate_tail: cuts operators of `TAIL` off the end, and says which.
      opt_matmul: not needed.
      opt_720: not needed.
      duplicate_shared_weights: gives every weighted node its own.
      bn_on_skip: not needed: rescales are inserted where they help.
      bn_before_add: likewise.

    Raises:
      ConfigError: an option that cannot be had.
      ModelError: the model cannot be read, or has no image as its only input.
    """
    if rgba2yynn:
        fix = "convert the images, or prepend a Conv of your own"
        raise ConfigError("the numbers of this conversion are not public", where="rgba2yynn=True", fix=fix)
    for name, asked in (("opt_720", opt_720), ("bn_on_skip", bn_on_skip), ("bn_before_add", bn_before_add)):
        if asked:
            tell_one(name, True, False, "quantization sees to it where it helps")
    model = _prepend_colours(m, bgr=bgr, norm=norm) if bgr or norm else m
    if eliminate_tail:
        model = _without_tail(model)
    made = optimize_onnx(
        model, opt_matmul=opt_matmul, duplicate_shared_weights=2 if duplicate_shared_weights else 1,
        skipped_optimizers=_FOLDS if disable_fuse_bn else (),
    )  # fmt: skip
    tell(made.notes)
    return made.to_proto()


def torch_exported_onnx_flow(m: onnx.ModelProto, disable_fuse_bn: bool = False) -> onnx.ModelProto:
    """The same as `onnx2onnx_flow`, which knows what PyTorch exports."""
    return onnx2onnx_flow(m, disable_fuse_bn=disable_fuse_bn)


def pixel_modify(m: onnx.ModelProto, scale: Sequence[float], bias: Sequence[float]) -> onnx.ModelProto:
    """Puts `x * scale + bias`, a BatchNormalization, before the model: its input takes raw pixels then.

    Args:
      m: changed in place; its only input is [N, C, H, W].
      scale: one factor per channel.
      bias: one summand per channel.

    Returns:
      The same object.

    Raises:
      ModelError: the model has no image as its only input, or not as many channels.
    """
    name, channels = _image_input(m)
    if len(scale) != channels or len(bias) != channels:
        what = f"{len(scale)} factors and {len(bias)} summands for {channels} channels"
        raise ModelError(what, where=f"input '{name}'", fix="give one of each per channel")
    values = {"scale": scale, "bias": bias, "mean": np.zeros(channels), "var": np.ones(channels)}
    _prepend(m, name, "BatchNormalization", {f"{name}/{k}": np.asarray(v, np.float32) for k, v in values.items()},
             epsilon=0.0)  # fmt: skip
    return m


def _image_input(m: onnx.ModelProto) -> tuple[str, int]:
    """Name and channels of the only input."""
    names = input_names(m)
    shape = next((v.type.tensor_type.shape.dim for v in m.graph.input if v.name in names), ())
    if len(names) != 1 or len(shape) != 4 or shape[1].dim_value < 1:
        fix = "give a model whose only input is [N, C, H, W]"
        raise ModelError("this needs one image as input", where=f"inputs {', '.join(names)}", fix=fix)
    return names[0], shape[1].dim_value


def _prepend(m: onnx.ModelProto, name: str, op_type: str, constants: dict[str, np.ndarray], **attrs: object) -> None:
    """Puts a node between an input and all that reads it, in place."""
    taken = {t for n in m.graph.node for t in n.output} | {t.name for t in m.graph.initializer} | {name}
    result = f"{name}/{op_type}"
    while result in taken:
        result += "_"
    for node in m.graph.node:
        node.input[:] = [result if t == name else t for t in node.input]
    fresh = {k if k not in taken else f"{result}/{k}": v for k, v in constants.items()}
    m.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in fresh.items())
    m.graph.node.insert(0, helper.make_node(op_type, [name, *fresh], [result], name=result, **attrs))


def _prepend_colours(m: onnx.ModelProto, *, bgr: bool, norm: bool) -> onnx.ModelProto:
    """A copy with a 1x1 Conv in front."""
    copied = onnx.ModelProto()
    copied.CopyFrom(m)
    name, channels = _image_input(copied)
    if bgr and channels != 3:
        raise ModelError(f"{channels} channels have no other order of colours", where="bgr=True", fix="leave it out")
    weight = np.eye(channels, dtype=np.float32)[:: -1 if bgr else 1].reshape(channels, channels, 1, 1)
    constants = {f"{name}/weight": np.ascontiguousarray(weight)}
    constants |= {f"{name}/bias": np.full(channels, 0.5, np.float32)} if norm else {}
    _prepend(copied, name, "Conv", constants, kernel_shape=[1, 1])
    return copied


def _without_tail(m: onnx.ModelProto) -> onnx.ModelProto:
    """The model without trailing operators of `TAIL`."""
    made = {t: n for n in m.graph.node for t in n.output}
    ends, dropped = [], {}
    for value in m.graph.output:
        end = value.name
        while (node := made.get(end)) is not None and (node.op_type in TAIL or node.domain not in ("", "ai.onnx")):
            inner = [t for t in node.input if t in made or t in input_names(m)]
            if len(inner) != 1 or inner[0] not in made:
                break
            dropped[node.name or end], end = node.op_type, inner[0]
        ends.append(end)
    if not dropped:
        return m
    kinds = ", ".join(f"{name} ({kind})" for name, kind in dropped.items())
    tell_one("eliminate_tail", True, f"outputs {', '.join(ends)}", f"do this after the model: {kinds}")
    return edit_onnx(m, outputs=ends)
