"""The dump of a quantization run."""

from collections.abc import Mapping
from pathlib import Path

from knerex_jax.data.sources import Sample
from knerex_jax.dumps.write import dump
from knerex_jax.ops.opdef import OpDef
from knerex_jax.quantize.config import PTQConfig
from knerex_jax.quantize.note import Note
from knerex_jax.quantize.planner import Planned
from knerex_jax.runtime import FixedModel, FloatModel


def dump_notes(config: PTQConfig, held: int) -> tuple[Note, ...]:
    """What of the request cannot be had: a run holds its first samples only."""
    if not config.export_dynasty_dump or config.dump_samples <= held:
        return ()
    return (Note("dump_samples", str(config.dump_samples), str(held), "the run holds no more of the calibration data"),)


def dump_of_run(
    fixed: FixedModel,
    planned: Planned,
    config: PTQConfig,
    held: Mapping[int, Sample],
    path: Path,
    ops: Mapping[str, OpDef],
) -> dict[str, Path]:
    """Writes what the config asks for: the first calibration samples, with the float model's values beside them.

    Returns:
      "dump" -> path, or nothing.
    """
    if not config.export_dynasty_dump:
        return {}
    count = min(config.dump_samples, len(held))
    first = [held[k] for k in sorted(held)[:count]]
    reference = FloatModel(planned.model, ops)
    # Samples that were kept lie as the model has them.
    made = dump(fixed, iter(first), path, samples=count, float_model=reference, layout="NCHW", ops=ops)
    return {"dump": made}
