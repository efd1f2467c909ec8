"""Scores of a model over a whole labelled data set: batch by batch in constant memory, on all devices and processes.

Every sample gives numbers by itself, which are added up exactly. So a score depends on the samples and on the shape of
a microbatch alone, not on how many devices and processes there are.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from knerex_jax.data.functions import is_function_name, load_function, user_failure
from knerex_jax.data.sources import Job, Sample, Source, open_source
from knerex_jax.errors import ConfigError, ModelError
from knerex_jax.graph.ir import TensorType
from knerex_jax.metrics import METRICS, Metric
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.opdef import OpDef
from knerex_jax.parallel import processes
from knerex_jax.parallel.devices import data_mesh, device_count
from knerex_jax.quantize.options import one_of
from knerex_jax.runner import AnyModel, open_runner

_LABEL = "\0label"
"""Labels travel with their samples, under a name that no input has."""


@dataclass(frozen=True)
class DatasetScore:
    """What a model scored.

    Attributes:
      scores: name of the metric -> score.
      samples: number of samples they rest on.
      model: name of the model.
      kind: "float", "fixed" or "nef".
    """

    scores: Mapping[str, float]
    samples: int
    model: str
    kind: str

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def evaluate_dataset(
    model: AnyModel | str | Path,
    loader: Any,
    metric: Any = "top1",
    *,
    labels: Any = None,
    batch_size: int = 16,
    devices: int | None = None,
    threads: int = 4,
    preprocess: Any = None,
    layout: str | None = None,
    model_id: int | None = None,
    key: bytes | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    ops: Mapping[str, OpDef] = REGISTRY,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> DatasetScore:
    """Scores a float, fixed or compiled model on labelled data.

    The data are read once, ahead of the computation, and never held. A microbatch of `batch_size` goes to every device;
    a nef runs on the host. After `jax.distributed.initialize` every process reads its share of the batches, and all
    return the same.

    Args:
      model: a model, or the path of an ONNX, bie or nef.
      loader: an iterable of (sample, label), or a function without arguments that returns one, also by name
        "module:function". A sample is an array, or input name -> array; where it has the input's rank, its first axis
        counts samples, with as many labels (a PyTorch DataLoader does that). With `labels`: samples in any form that
        calibration takes.
      metric: a name ("top1", "top5", "mse", "mae", "snr_db": of the first output), a `Metric`, a function
        (outputs, labels) -> number per sample, or name -> any of these.
      labels: one per sample, as a sequence or array; or a `.npy` file, or a text file with a number per line.
      batch_size: samples per compiled step and device.
      devices: how many share the work; None: all of JAX's default kind.
      threads: that load and preprocess.
      preprocess: for images, as for calibration.
      layout: of arrays where it is ambiguous.
      model_id: which model of a nef that holds several.
      key: opens an encrypted nef.
      input_shapes: of an ONNX with dynamic inputs.
      ops: operator records, for an ONNX.
      progress: called with ("evaluate", samples done by this process, of how many or None).

    Raises:
      ModelError: model or data cannot be read, or do not fit; labels are missing.
      ConfigError: an unknown metric, a metric that gives no finite number per sample, or too many devices.
    """
    runner = open_runner(model, model_id=model_id, key=key, input_shapes=input_shapes, ops=ops)
    measured = _metrics(metric)
    whole = _labelled(loader, labels, runner.inputs, layout, preprocess)
    source = whole.part(processes.index(), processes.count(), batch_size)
    microbatches = None if whole.count is None else -(-whole.count // (batch_size * processes.count()))
    mesh = None if runner.kind == "nef" else data_mesh(devices, microbatches)
    size = batch_size * device_count(mesh)
    spread, totals = runner.spread(mesh), {name: _Sum() for name in measured}

    def work() -> int:
        done = 0
        for batch in source.batches(size, threads):
            given = list(batch.pop(_LABEL))
            outputs = spread.run_padded(batch, size)
            for name, each in measured.items():
                totals[name].add(_numbers(each, outputs, given, name))
            done += len(given)
            if progress is not None:
                progress("evaluate", done, source.count)
        return done

    done = processes.all_or_none(work)
    samples = sum(int(text) for text in processes.exchange(str(done).encode()))
    if samples == 0:
        raise ModelError("there are no samples", where="evaluation data", fix="give at least one sample")
    scores = {name: _score(measured[name], total.of_all().mean(samples)) for name, total in totals.items()}
    return DatasetScore(scores, samples, runner.name, runner.kind)


def _metrics(asked: Any) -> dict[str, Metric]:
    """Name -> metric."""
    if isinstance(asked, Mapping):
        return {name: next(iter(_metrics(value).values())) for name, value in asked.items()}
    if isinstance(asked, str):
        return {one_of("metric", asked, METRICS): METRICS[asked]}
    if isinstance(asked, Metric):
        return {"score": asked}
    if callable(asked):
        return {getattr(asked, "__name__", "score"): Metric(asked)}
    if isinstance(asked, Sequence):
        return {name: one for value in asked for name, one in _metrics(value).items()}
    fix = f"use one of {', '.join(METRICS)}, or a function of (outputs, labels)"
    raise ConfigError(f"{type(asked).__name__} is no metric", where="metric", fix=fix)


def _numbers(metric: Metric, outputs: Mapping[str, np.ndarray], labels: Sequence[Any], name: str) -> np.ndarray:
    """What a batch gives, float64 [b, k]."""
    where = f"metric {name!r}"
    try:
        found = np.asarray(metric.each(outputs, labels), np.float64)
    except MemoryError:  # is told for the run as a whole
        raise
    except Exception as e:  # whatever the user's code raises
        raise user_failure(e, where) from e
    if found.shape[:1] != (len(labels),) or found.ndim > 2:
        what = f"an array of shape {found.shape} for {len(labels)} samples"
    elif not np.isfinite(found).all():
        what = "a number that is not finite"
    else:
        return found.reshape(len(labels), -1)
    raise ConfigError(what, where=where, fix="return one finite number, or one row of them, per sample")


def _score(metric: Metric, mean: np.ndarray) -> float:
    if metric.score is not None:
        return float(metric.score(mean if mean.ndim and len(mean) > 1 else mean.reshape(())))
    return float(mean.reshape(()))


class _Sum:
    """Exact sums of the numbers of all samples, which no order changes."""

    def __init__(self) -> None:
        self.totals: list[Fraction] = []

    def add(self, rows: np.ndarray) -> None:
        """Numbers float64 [b, k] of b samples."""
        self.totals = self.totals or [Fraction(0)] * rows.shape[1]
        for place, column in enumerate(rows.T.tolist()):
            self.totals[place] = sum(map(Fraction, column), self.totals[place])

    def of_all(self) -> "_Sum":
        """Of all processes together."""
        said = json.dumps([(str(t.numerator), str(t.denominator)) for t in self.totals]).encode()
        each = [[Fraction(int(n), int(d)) for n, d in json.loads(text)] for text in processes.exchange(said)]
        made = _Sum()
        made.totals = [sum(column, Fraction(0)) for column in zip(*filter(None, each), strict=True)]
        return made

    def mean(self, samples: int) -> np.ndarray:
        return np.array([float(total / samples) for total in self.totals])


def _labelled(loader: Any, labels: Any, types: Mapping[str, TensorType], layout: str | None, preprocess: Any) -> Source:
    """Samples whose jobs also give a label."""
    if labels is not None:
        return _beside(open_source(loader, types, layout=layout, preprocess=preprocess), _read_labels(labels))
    if is_function_name(loader):
        loader = load_function(loader, where=f"loader={loader}")
    if not (callable(loader) or isinstance(loader, Iterable)) or isinstance(loader, str | Path | Mapping):
        fix = "give pairs of (sample, label), or the labels as well"
        raise ConfigError(f"{type(loader).__name__} says nothing of labels", where="loader", fix=fix)

    def jobs() -> Iterator[Job]:
        waiting: deque[Any] = deque()

        def samples() -> Iterator[Any]:
            for sample, label in _one_by_one(loader() if callable(loader) else loader, types):
                waiting.append(label)
                yield sample

        for job in open_source(samples(), types, layout=layout).jobs():
            yield partial(_with_label, job, waiting.popleft())

    return Source(False, None, jobs)


def _one_by_one(items: Iterable[Any], types: Mapping[str, TensorType]) -> Iterator[tuple[Any, Any]]:
    """(sample, label) of pairs that hold one or many."""
    for item in items:
        try:
            given, label = item
        except (TypeError, ValueError):
            fix = "yield (sample, label)"
            raise ModelError(f"an item is {type(item).__name__}, not a pair", where="loader", fix=fix) from None
        named = given if isinstance(given, Mapping) else dict.fromkeys(list(types)[:1], given)
        arrays = {t: np.asarray(a) for t, a in named.items()}
        if any(t not in types or a.ndim != len(types[t].shape) or not a.ndim for t, a in arrays.items()):
            yield given, label
            continue
        counts = {len(a) for a in arrays.values()}
        several = [label] if counts == {1} and _is_one(label) else label
        if len(counts) > 1 or len(several) != next(iter(counts)):
            what = f"a batch of {' and '.join(map(str, sorted(counts)))} samples has {len(several)} labels"
            raise ModelError(what, where="loader", fix="yield as many labels as samples")
        single = not isinstance(given, Mapping)
        for k, one in enumerate(several):
            rows = {t: a[k] for t, a in arrays.items()}
            yield (next(iter(rows.values())) if single else rows), one


def _is_one(label: Any) -> bool:
    """Whether this is a label and no sequence of one."""
    return not hasattr(label, "__len__") or np.ndim(label) == 0 or len(label) != 1


def _beside(source: Source, labels: Sequence[Any]) -> Source:
    if source.count not in (None, len(labels)):
        what = f"{source.count} samples and {len(labels)} labels"
        raise ModelError(what, where="labels", fix="give one label per sample, in the same order")

    def jobs() -> Iterator[Job]:
        for number, job in enumerate(source.jobs()):
            if number >= len(labels):
                what = f"more than {number} samples and {len(labels)} labels"
                raise ModelError(what, where="labels", fix="give one label per sample, in the same order")
            yield partial(_with_label, job, labels[number])

    return Source(source.rereadable, source.count, jobs)


def _with_label(job: Job, label: Any) -> Sample:
    held = np.empty((), object)
    held[()] = label
    return {**job(), _LABEL: held}


def _read_labels(labels: Any) -> Sequence[Any]:
    if not isinstance(labels, str | Path):
        return labels
    path = Path(labels).expanduser()
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        return [float(line) if "." in line else int(line) for line in path.read_text().split()]
    except (OSError, ValueError) as e:
        fix = "give an .npy file, or a text file with one number per line"
        raise ModelError(f"cannot read the labels: {e}", where=str(path), fix=fix) from e
