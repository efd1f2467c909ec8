"""The order of the passes."""

from knerex_jax.graph.ir import Model
from knerex_jax.ops import REGISTRY
from knerex_jax.passes import (
    attention,
    cleanup,
    decompose,
    dense,
    fold,
    fuse,
    layout,
    moves,
    normalise,
    operands,
    recognise,
)
from knerex_jax.passes.base import Pass, Registry, run_passes

CLEANUP: tuple[Pass, ...] = (
    cleanup.remove_dead,
    cleanup.constants_to_outputs,
    cleanup.remove_identity,
    cleanup.remove_cast,
    cleanup.remove_slice,
    cleanup.remove_pad,
    cleanup.remove_concat,
    cleanup.remove_expand,
    cleanup.remove_pool,
    fold.evaluate_constants,
)
"""What does nothing, and what is known beforehand."""

LAYOUT: tuple[Pass, ...] = (
    moves.gather_to_slice,
    moves.gather_flat,
    moves.split_to_slices,
    moves.tile_to_gather,
    moves.pad_to_gather,
    moves.blocks_to_transpose,
    layout.reduce_before_transpose,
    layout.merge_transposes,
    layout.transpose_of_ones_to_reshape,
    layout.to_plain_reshape,
    layout.merge_reshapes,
    layout.activation_before_reshape,
)
"""Fewer and plainer movements of data."""

FUSE: tuple[Pass, ...] = (
    recognise.spelled_hard_swish,
    recognise.spelled_hard_sigmoid,
    recognise.spelled_gelu,
    recognise.widen_deviation,
    attention.where_to_mask,
    attention.masks_last,
    attention.finite_masks,
    fuse.concat_zeros_to_pad,
    fuse.pad_into_conv,
    fuse.pad_into_average_pool,
    fuse.pad_into_max_pool,
    fuse.whole_average_to_global_pool,
    fuse.mean_to_global_pool,
    fuse.quantizers_to_clip,
    fuse.limit_to_clip,
    fuse.merge_clips,
    fuse.open_clip_to_relu,
)
"""One operator of several. Padding goes first: a convolution that pads by itself can be fused further."""

AFFINE: tuple[Pass, ...] = (
    dense.gemm_of_computed_to_matmul,
    dense.normalise_gemm,
    dense.matmul_to_gemm,
    fold.batch_norm_into_conv,
    fold.batch_norm_into_gemm,
    fold.constant_to_batch_norm,
    fold.merge_batch_norms,
    fold.batch_norm_into_conv,
    fold.batch_norm_into_gemm,
    fold.batch_norm_into_next_conv,
    fold.normalise_batch_norm,
    fold.drop_unit_batch_norm,
)
"""Multiplications and additions of constants. A BatchNormalization of the user's is folded before it could be rounded;
maps that `constant_to_batch_norm` makes are exact, and are merged with one another before they are folded."""

SPELL_OUT: tuple[Pass, ...] = (
    attention.spell_out_attention,
    normalise.spell_out_layer_norm,
    normalise.spell_out_instance_norm,
    normalise.spell_out_group_norm,
    normalise.spell_out_mean_variance,
    normalise.spell_out_lp_norm,
    normalise.spell_out_reductions,
    normalise.sum_of_squares_to_matmul,
    decompose.spell_out_lrn,
    decompose.spell_out_swish,
    decompose.mean_to_sum,
    decompose.sum_to_adds,
    decompose.plain_powers,
    decompose.spell_out_softmax,
    decompose.spell_out_log_softmax,
    decompose.divide_by_reciprocal,
    decompose.keep_reduced_axes,
    fold.unshare_weights,
)
"""Operators without an integer rule. Last in a round: the rewrites above know the compact forms."""

DECOMPOSE: tuple[Pass, ...] = (*CLEANUP, *LAYOUT, *FUSE, *AFFINE, *SPELL_OUT)
"""From the user's graph to the one that is quantized, again and again until nothing changes."""

FINISH: tuple[Pass, ...] = (operands.quantize_weighted, operands.constants_to_operands, operands.quantize_exact)
"""What the passes above would undo."""


def decompose_model(model: Model, registry: Registry = REGISTRY) -> Model:
    """Returns the equal model in the operators that have integer rules, as far as there are any.

    Raises:
      KnerexError: a pass failed; `where` names it.
    """
    return run_passes(run_passes(model, DECOMPOSE, registry), FINISH, registry)
