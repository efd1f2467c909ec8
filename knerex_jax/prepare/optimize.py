"""A float ONNX -> the same function with fewer and plainer operators, still standard ONNX for any runtime."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from knerex_jax.data.shapes import Shape, parse_shape
from knerex_jax.errors import ConfigError, ModelError
from knerex_jax.graph.ir import Model
from knerex_jax.graph.read import read_onnx
from knerex_jax.graph.tensors import HALVES
from knerex_jax.graph.write import EXTERNAL_ABOVE_BYTES, to_proto, write_onnx
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import bind, unbind
from knerex_jax.passes import fold, fuse, layout, moves, recognise
from knerex_jax.passes.base import Pass, Registry, run_passes
from knerex_jax.passes.dense import matmul_to_gemm, normalise_gemm
from knerex_jax.passes.pipeline import CLEANUP
from knerex_jax.prepare.compare import FIRST, TOLERANCE, Comparison, compare_onnx
from knerex_jax.prepare.protos import OnnxModel, input_names, name_of, overwrite_shapes, proto_of, with_weights
from knerex_jax.prepare.rewrites import average_pool_to_conv, dilated_conv_to_plain
from knerex_jax.quantize.note import Note
from knerex_jax.suggest import nearest

_PASSES: tuple[Pass, ...] = (
    *CLEANUP,
    moves.gather_to_slice,
    layout.reduce_before_transpose,
    layout.merge_transposes,
    layout.transpose_of_ones_to_reshape,
    layout.to_plain_reshape,
    layout.merge_reshapes,
    recognise.spelled_hard_swish,
    recognise.spelled_hard_sigmoid,
    recognise.spelled_gelu,
    fuse.concat_zeros_to_pad,
    fuse.pad_into_conv,
    fuse.pad_into_average_pool,
    fuse.pad_into_max_pool,
    fuse.whole_average_to_global_pool,
    fuse.mean_to_global_pool,
    fuse.limit_to_clip,
    fuse.merge_clips,
    fuse.open_clip_to_relu,
    normalise_gemm,
    matmul_to_gemm,
    fold.batch_norm_into_conv,
    fold.batch_norm_into_gemm,
    fold.constant_to_batch_norm,
    fold.merge_batch_norms,
    fold.batch_norm_into_next_conv,
    fold.normalise_batch_norm,
    fold.drop_unit_batch_norm,
)
"""What serves any runtime. Softmax, normalisations and quantizers stay: `run_ptq` spells them out for itself."""

OPTIMIZERS = tuple(getattr(p, "__name__", "") for p in _PASSES)
"""Names that `skipped_optimizers` may hold."""

HALF_TOLERANCE = 1e-2
"""As `TOLERANCE`, for models that ONNX Runtime computes in half precision."""


@dataclass(frozen=True)
class Optimized:
    """An optimized model.

    Attributes:
      model: its graph and constants.
      before: operator -> how often, in the model given.
      after: the same, in the result.
      comparison: with the model given, on random inputs; None if it was skipped or could not be made (see `notes`).
      notes: requests that were not applied as asked, and why.
      doc: the model's own documentation string.
      metadata: the model's own key-value pairs.
      ops: operator records.
    """

    model: Model = field(repr=False)
    before: Mapping[str, int]
    after: Mapping[str, int]
    comparison: Comparison | None
    notes: tuple[Note, ...]
    doc: str = field(default="", repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)
    ops: Registry = field(default_factory=lambda: REGISTRY, repr=False)

    def to_proto(self) -> onnx.ModelProto:
        """The result as ONNX, up to 2 GiB."""
        return to_proto(unbind(self.model, self.ops), self.metadata, self.doc)

    def save(self, path: str | Path) -> Path:
        """Writes the result whole or not at all; large weights go to `<path>.data`.

        Raises:
          ArtifactError: the folder cannot be written.
        """
        return write_onnx(unbind(self.model, self.ops), path, self.metadata, self.doc)


def optimize_onnx(
    model: OnnxModel,
    output: str | Path | None = None,
    *,
    duplicate_shared_weights: int = 1,
    skip_check: bool = False,
    overwrite_input_shapes: Sequence[str] | Mapping[str, Shape] | None = None,
    convert_f16: bool = True,
    skipped_optimizers: Collection[str] | None = None,
    skip_fuse_qkv: bool = False,
    clear_descriptions: bool = False,
    opt_matmul: bool = False,
    clear_shapes: bool = False,
    replace_avgpool_with_conv: bool = False,
    replace_dilated_conv: bool = False,
    defuse_gaps: bool = False,
    ops: Registry = REGISTRY,
) -> Optimized:
    """Folds, fuses and cleans a float model; inputs and outputs keep their names, order and types (float32 for halves).

    Args:
      model: of any supported opset; not changed.
      output: where to write the result, if anywhere.
      duplicate_shared_weights: 0 never, 1 where the compiler needs it (here: never, quantization makes its own
        copies), 2 always.
      skip_check: does not run the result against the model given.
      overwrite_input_shapes: shapes that replace the model's, name -> shape or as in "data:1,3,224,224"; of a model
        with one input also "1,3,224,224".
      convert_f16: half precision becomes float32; it cannot be kept.
      skipped_optimizers: names of `OPTIMIZERS` to leave out.
      skip_fuse_qkv: projections of attention are not merged, whatever this says.
      clear_descriptions: drops the documentation and metadata of the model; those of nodes are dropped anyway.
      opt_matmul: not needed: the compiler takes products of any rank.
      clear_shapes: shapes are always inferred anew from those of the inputs.
      replace_avgpool_with_conv: averages by depthwise convolutions, where padding does not forbid it.
      replace_dilated_conv: writes dilations as zeros among the weights.
      defuse_gaps: not applied: global pooling runs whole.
      ops: operator records; {**REGISTRY, "domain::MyOp": MY_OP} adds one of your own.

    Raises:
      ModelError: the model cannot be read, or the result computes something else (nothing is written then).
      UnsupportedOpError: an operator has no rule.
      ConfigError: an unknown optimizer or level.
    """
    passes = _chosen(skipped_optimizers or (), duplicate_shared_weights)
    proto = proto_of(model)
    shapes = _shapes(overwrite_input_shapes, input_names(proto))
    given: OnnxModel = model
    if shapes:
        overwrite_shapes(proto, shapes)
        given = with_weights(proto, model)
    file = read_onnx(given)
    bound = bind(file.model, ops, file.opset)
    made = run_passes(bound, passes, ops)
    extra: list[Pass] = [average_pool_to_conv] * replace_avgpool_with_conv
    extra += [dilated_conv_to_plain] * replace_dilated_conv + [fold.unshare_weights] * (duplicate_shared_weights == 2)
    made = run_passes(made, extra, ops) if extra else made
    notes = list(_notes(convert_f16, opt_matmul, defuse_gaps))
    doc, metadata = ("", {}) if clear_descriptions else (file.doc, file.metadata)
    before, after = (Counter(n.op_type for n in nodes) for nodes in (proto.graph.node, made.graph.nodes))
    result = Optimized(made, before, after, None, tuple(notes), doc, metadata, ops)
    comparison = None
    if not skip_check and sum(a.nbytes for a in made.constants.values()) > EXTERNAL_ABOVE_BYTES:
        notes.append(Note("skip_check", "False", "not compared", "the model is too large to be held twice"))
    elif not skip_check:
        try:
            tolerance = HALF_TOLERANCE if _has_halves(proto) else TOLERANCE
            comparison = compare_onnx(given, result.to_proto(), tolerance=tolerance, input_shapes=_static(made))
        except ModelError as e:
            if e.where not in (FIRST, str(given)):
                raise
            notes.append(Note("skip_check", "False", "not compared", e.what))
    if comparison is not None and not comparison.alike:
        worst = max(comparison.outputs, key=lambda o: o.relative)
        what = f"the optimized model differs: {worst.max_abs:g} at most, {worst.relative:.2g} of the largest value"
        fix = "skip_check=True writes it all the same; skipped_optimizers leaves rewrites out; please report the model"
        raise ModelError(what, where=f"{name_of(model)}, output '{worst.name}'", fix=fix)
    result = replace(result, comparison=comparison, notes=tuple(notes))
    if output is not None:
        result.save(output)
    return result


def _chosen(skipped: Collection[str], level: int) -> tuple[Pass, ...]:
    for name in skipped:
        if name not in OPTIMIZERS:
            raise ConfigError(f"no optimizer '{name}'", where="skipped_optimizers", fix=nearest(name, OPTIMIZERS))
    if level not in (0, 1, 2):
        fix = "use 0 (never), 1 (where needed) or 2 (always)"
        raise ConfigError(f"{level!r} is no level", where="duplicate_shared_weights", fix=fix)
    return tuple(p for p, name in zip(_PASSES, OPTIMIZERS, strict=True) if name not in skipped)


def _shapes(given: Sequence[str] | Mapping[str, Shape] | None, inputs: Sequence[str]) -> dict[str, Shape]:
    if isinstance(given, Mapping):
        return {name: tuple(shape) for name, shape in given.items()}
    return dict(parse_shape(text, inputs) for text in ([given] if isinstance(given, str) else given or ()))


def _notes(convert_f16: bool, opt_matmul: bool, defuse_gaps: bool) -> tuple[Note, ...]:
    wanted = {
        "convert_f16": (not convert_f16, "False", "True", "everything here is float32 before it is quantized"),
        "opt_matmul": (opt_matmul, "True", "False", "the compiler takes matrix products of any rank"),
        "defuse_gaps": (defuse_gaps, "True", "False", "global pooling runs whole, of any size"),
    }
    return tuple(Note(name, *said) for name, (asked, *said) in wanted.items() if asked)


def _has_halves(proto: onnx.ModelProto) -> bool:
    kinds = {t.data_type for t in proto.graph.initializer}
    kinds |= {v.type.tensor_type.elem_type for v in (*proto.graph.input, *proto.graph.output)}
    return not kinds.isdisjoint(HALVES)


def _static(model: Model) -> dict[str, Shape]:
    return {t: model.graph.types[t].shape for t in model.graph.inputs}
