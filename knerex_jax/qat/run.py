"""Fine-tuning as a stage of a run."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from knerex_jax.flow import sigmoid_outputs
from knerex_jax.graph.ir import Model
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.opdef import OpDef
from knerex_jax.qat.config import QATConfig
from knerex_jax.qat.loop import Tuned, fine_tune
from knerex_jax.qat.subject import Subject
from knerex_jax.quantize.config import PTQConfig
from knerex_jax.quantize.overrides import resolve
from knerex_jax.quantize.planner import Planned
from knerex_jax.quantize.structure import analyse

STAGE = "fine-tune"


def tune_plan(
    planned: Planned,
    model: Model,
    samples: Mapping[str, np.ndarray],
    config: PTQConfig,
    qat: QATConfig,
    folder: Path | None = None,
    ops: Mapping[str, OpDef] = REGISTRY,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> Tuned:
    """Fine-tunes the plan of a run; formats that the user imposed stay.

    Args:
      planned: the plan, with refined constants or without.
      model: decomposed, without rescale slots.
      samples: name -> [N, ...] in place of the batch axis; at most `train_samples` of them are used.
      config: the run's.
      qat: of the training.
      folder: for the checkpoint and the metrics; None writes none.
      ops: operator records.
      progress: called with (stage, steps done, steps).
    """
    held = set()
    if config.quan_config:
        held = resolve(config.quan_config, model, analyse(model, config.target, ops), config.target).numbers
    subject = Subject.of(planned, target=config.target, held=held & planned.plan.formats.keys(), registry=ops)
    used = {t: a[: qat.train_samples] for t, a in samples.items()}
    labels = None if qat.labels is None else np.asarray(qat.labels)[: qat.train_samples]
    tell = None if progress is None else lambda done, total: progress(STAGE, done, total)
    return fine_tune(
        planned, used, qat, subject, labels=labels, sigmoids=sigmoid_outputs(config, model.graph.outputs),
        folder=folder, batch_size=config.batch_size, progress=tell,
    )  # fmt: skip
