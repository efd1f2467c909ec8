"""The published optimizer of float models: `optimize`, and `python -m knerex_jax.ktc.kneronnxopt`."""

from collections.abc import Sequence

import onnx

from knerex_jax.ktc.notes import tell, tell_one
from knerex_jax.prepare.compare import Comparison, compare_onnx
from knerex_jax.prepare.optimize import OPTIMIZERS, optimize_onnx
from knerex_jax.prepare.protos import OnnxModel

EQUIVALENTS = {
    "eliminate_deadend": "remove_dead",
    "eliminate_identity": "remove_identity",
    "eliminate_nop_cast": "remove_cast",
    "eliminate_nop_concat": "remove_concat",
    "eliminate_nop_dropout": "remove_identity",
    "eliminate_nop_expand": "remove_expand",
    "eliminate_nop_pad": "remove_pad",
    "eliminate_nop_reshape": "merge_reshapes",
    "eliminate_nop_transpose": "merge_transposes",
    "fuse_add_bias_into_conv": "constant_to_batch_norm",
    "fuse_bn_into_conv": "batch_norm_into_conv",
    "fuse_consecutive_transposes": "merge_transposes",
    "fuse_matmul_add_bias_into_gemm": "matmul_to_gemm",
    "fuse_pad_into_conv": "pad_into_conv",
    "fuse_pad_into_pool": "pad_into_average_pool",
}
"""Pass of the onnx-optimizer package -> ours that does the same."""


def optimize(
    model: OnnxModel,
    duplicate_shared_weights: int = 1,
    skip_check: bool = False,
    overwrite_input_shapes: Sequence[str] | None = None,
    convert_f16: bool = True,
    skipped_optimizers: Sequence[str] | None = None,
    skip_fuse_qkv: bool = False,
    clear_descriptions: bool = False,
    opt_matmul: bool = False,
    clear_shapes: bool = False,
    replace_avgpool_with_conv: bool = False,
    replace_dilated_conv: bool = False,
    defuse_gaps: bool = False,
) -> onnx.ModelProto:
    """Optimizes a float model; the result is compared with it on ONNX Runtime.

    Args:
      model: loaded, or its path; not changed.
      duplicate_shared_weights: as in `knerex_jax.optimize_onnx`, as are all arguments but this:
      skip_check: see there.
      overwrite_input_shapes: see there.
      convert_f16: see there.
      skipped_optimizers: names of our passes, or of those of the onnx-optimizer package; others are told.
      skip_fuse_qkv: see there.
      clear_descriptions: see there.
      opt_matmul: see there.
      clear_shapes: see there.
      replace_avgpool_with_conv: see there.
      replace_dilated_conv: see there.
      defuse_gaps: see there.

    Raises:
      KnerexError: as `knerex_jax.optimize_onnx`.
    """
    skipped = []
    for name in skipped_optimizers or ():
        if (ours := EQUIVALENTS.get(name, name)) in OPTIMIZERS:
            skipped.append(ours)
        else:
            tell_one("skipped_optimizers", name, "nothing to skip", "no pass here does this")
    made = optimize_onnx(
        model, duplicate_shared_weights=duplicate_shared_weights, skip_check=skip_check,
        overwrite_input_shapes=overwrite_input_shapes, convert_f16=convert_f16, skipped_optimizers=skipped,
        skip_fuse_qkv=skip_fuse_qkv, clear_descriptions=clear_descriptions, opt_matmul=opt_matmul,
        clear_shapes=clear_shapes, replace_avgpool_with_conv=replace_avgpool_with_conv,
        replace_dilated_conv=replace_dilated_conv, defuse_gaps=defuse_gaps,
    )  # fmt: skip
    tell(made.notes)
    return made.to_proto()


def onnx_vs_onnx(first: OnnxModel, second: OnnxModel) -> Comparison:
    """Runs two models on the same random inputs; `.alike` is the verdict, `.outputs` the details."""
    return compare_onnx(first, second)
