"""Pictures through pre-processing, models and post-processing."""

import csv
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from knerex_jax.artifacts.stages import finite
from knerex_jax.e2e.hooks import Hook, find_hook
from knerex_jax.e2e.pictures import Prepare, Prepared, list_pictures, preparer, read_picture
from knerex_jax.e2e.record import Judged, recording
from knerex_jax.e2e.results import agreement, to_json
from knerex_jax.errors import ConfigError, ModelError
from knerex_jax.files import writable_folder, write_atomic
from knerex_jax.flow import Ops
from knerex_jax.metrics import snr_db
from knerex_jax.ops import REGISTRY
from knerex_jax.runner import AnyModel, Runner, open_runner

Progress = Callable[[str, int, int | None], None]
"""(stage, done, in total)."""


@dataclass(frozen=True)
class Simulation:
    """What came out.

    Attributes:
      folder: holds `results.jsonl`, `results.csv`, `summary.json` and `pictures/`.
      models: "float", "fixed", "nef" -> what ran, in this order; the first is what the others are compared with.
      pictures: how many.
      skipped: name of a picture that could not be read -> why.
      snr_db: model -> output -> SNR against the first model, over all pictures.
      agreement: model -> mean over the pictures of how far its results agree with the first model's, 0 to 1.
      nef_equals_fixed: pictures for which these two gave the same outputs; None without both.
      metric: model -> what the metric gave, or nothing.
      drawn: paths of the drawn pictures.
    """

    folder: Path
    models: Mapping[str, str]
    pictures: int
    skipped: Mapping[str, str]
    snr_db: Mapping[str, Mapping[str, float]]
    agreement: Mapping[str, float]
    nef_equals_fixed: int | None
    metric: Mapping[str, Any]
    drawn: tuple[Path, ...] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """The content of `summary.json`."""
        return finite({k: to_json(v) for k, v in vars(self).items() if k not in ("folder", "drawn")})

    def rows(self) -> Iterator[dict[str, Any]]:
        """The lines of `results.jsonl`, one per picture."""
        with (self.folder / "results.jsonl").open(encoding="utf-8") as file:
            yield from map(json.loads, file)


def simulate_images(
    images: str | Path | Sequence[str | Path],
    p_output: str | Path,
    *,
    pre: Any,
    post: Callable[..., Any] | str,
    onnx: AnyModel | str | Path | None = None,
    bie: AnyModel | str | Path | None = None,
    nef: AnyModel | str | Path | None = None,
    metric: Callable[[list[Any], list[Any]], Any] | str | None = None,
    labels: Mapping[str, Any] | str | Path | None = None,
    skip_bad: bool = False,
    draw: bool = True,
    layout: str | None = None,
    batch_size: int = 4,
    model_id: int | None = None,
    key: bytes | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    ops: Ops = REGISTRY,
    progress: Progress | None = None,
) -> Simulation:
    """Runs an application on pictures with the float, the fixed-point and the compiled model, and compares.

    Args:
      images: a folder, or paths of pictures.
      p_output: folder for results.
      pre: a function of the picture (PIL, RGB, upright), or "module:function": returns the array of the only input (as
        calibration takes it), or a dict of arrays by input; or a pair of that and a context. Or a preset's name.
      post: a function of (outputs, context), or "module:function". outputs: name -> float array in the ONNX output's
        shape; context: from `pre`, else (width, height) of the picture. Returns a list of `Box`, `Label`, `HeatMap` or
        text in pixels of the picture, which are drawn, or anything that JSON can hold.
      onnx: the float model.
      bie: the fixed-point model.
      nef: the compiled model, for the simulator. At least one of the three.
      metric: a function of (results, labels), lists over pictures: returns a number or a dict of numbers.
      labels: name of a picture -> label, or a JSON or CSV file (name, label) of such; for the metric.
      skip_bad: leaves pictures out that cannot be read, and says so, instead of stopping.
      draw: writes a picture with the results, one column per model.
      layout: of the model's input where a preset cannot tell: "NCHW" or "NHWC".
      batch_size: pictures at once.
      model_id: which model of a nef that holds several.
      key: opens an encrypted nef.
      input_shapes: of an ONNX with dynamic inputs.
      ops: operator records, for an ONNX.
      progress: called with (stage, pictures done, in total).

    Raises:
      HookError: one of the functions fails, with its line and the picture; or returns what cannot be used.
      ModelError: no pictures, one that cannot be read, or models with different inputs.
      ConfigError: no model, no such function, a metric without labels.
      ArtifactError: the folder cannot be written.
    """
    given = {"float": onnx, "fixed": bie, "nef": nef}
    open_ = {"model_id": model_id, "key": key, "input_shapes": input_shapes, "ops": ops}
    runners = {k: open_runner(m, **open_) for k, m in given.items() if m is not None}
    _check_models(runners)
    first = next(iter(runners.values()))
    prepare, post_hook = preparer(pre, first, layout), find_hook("post", post)
    metric_hook, known = (None, {}) if metric is None else (find_hook("metric", metric), read_labels(labels))
    files, folder = list_pictures(images), writable_folder(p_output)
    skipped: dict[str, str] = {}
    sums, tally = _Sums(), Counter[str]()
    results: dict[str, list[Any]] = {k: [] for k in runners} if metric_hook else {}
    wanted: list[Any] = []
    size = min(batch_size, len(files))
    pictures = _prepared(files, prepare, skip_bad, skipped)
    with recording(folder, draw=draw) as recorder:
        while group := list(itertools.islice(pictures, size)):
            for judged in _judge(group, runners, post_hook, size, tally["pictures"], sums):
                recorder.take(judged)
                tally["pictures"] += 1
                tally["equal"] += bool(judged.nef_equals_fixed)
                sums.agreement.update(judged.agreement)
                for k in results:
                    results[k].append(judged.results[k])
                if metric_hook:
                    wanted.append(_label_of(judged.path, known))
                if progress is not None:
                    progress("pictures", tally["pictures"] + len(skipped), len(files))
        if not tally["pictures"]:
            raise ModelError("no picture could be read", where=str(images), fix="give readable pictures")
    found = Simulation(
        folder=folder, models={k: r.name for k, r in runners.items()}, pictures=tally["pictures"], skipped=skipped,
        snr_db=sums.snr_db(), agreement={k: v / tally["pictures"] for k, v in sums.agreement.items()},
        nef_equals_fixed=tally["equal"] if {"fixed", "nef"} <= set(runners) else None,
        metric={k: to_json(metric_hook(f"model {k}", r, wanted)) for k, r in results.items()} if metric_hook else {},
        drawn=tuple(recorder.drawn),
    )  # fmt: skip
    write_atomic(folder / "summary.json", json.dumps(found.to_json(), indent=1).encode())
    return found


class _Sums:
    """Sums over pictures."""

    def __init__(self) -> None:
        self._power: dict[tuple[str, str], np.ndarray] = {}
        self.agreement: Counter[str] = Counter()

    def add(self, model: str, output: str, reference: np.ndarray, other: np.ndarray) -> float:
        """Adds an output of one picture; returns its SNR in dB."""
        a, b = (np.asarray(v, np.float64) for v in (reference, other))
        power = np.array([np.sum(a**2), np.sum((a - b) ** 2)])
        self._power[model, output] = self._power.get((model, output), 0) + power
        return snr_db(a, b)

    def snr_db(self) -> dict[str, dict[str, float]]:
        """Model -> output -> SNR over all pictures."""
        found: dict[str, dict[str, float]] = {}
        for (model, output), (signal, noise) in self._power.items():
            ratio = float("inf") if noise == 0 else float("-inf") if signal == 0 else 10 * np.log10(signal / noise)
            found.setdefault(model, {})[output] = float(ratio)
        return found


def _prepared(files: Sequence[Path], prepare: Prepare, skip_bad: bool, skipped: dict[str, str]) -> Iterator[Prepared]:
    """Reads the pictures one after the other; what cannot be read stops, or is remembered."""
    for path in files:
        try:
            image = read_picture(path)
        except ModelError as e:
            if not skip_bad:
                raise ModelError(e.what, where=e.where, fix="remove or replace the file, or use skip_bad") from e
            skipped[str(path)] = e.what
            continue
        yield prepare(path, image)


def _judge(
    group: Sequence[Prepared], runners: Mapping[str, Runner], post: Hook, size: int, number: int, sums: _Sums
) -> Iterator[Judged]:
    """Runs all models on a few pictures."""
    batch = {t: np.stack([p.inputs[t] for p in group]) for t in group[0].inputs}
    outputs = {k: r.run_padded(batch, size) for k, r in runners.items()}
    reference, *others = runners
    for row, picture in enumerate(group):
        where = f"picture {picture.path.name}"
        made = {k: {t: v[row : row + 1] for t, v in held.items()} for k, held in outputs.items()}
        results = {k: post(where, {t: v.copy() for t, v in held.items()}, picture.context) for k, held in made.items()}
        try:
            to_json(results)
        except TypeError as e:
            raise post.refuse(str(e), where, "return Box, Label, HeatMap, text, or plain lists and dicts") from e
        ratios = {k: [sums.add(k, t, made[reference][t], v) for t, v in made[k].items()] for k in others}
        equal = None
        if {"fixed", "nef"} <= set(made):
            equal = all(np.array_equal(v, made["nef"][t], equal_nan=True) for t, v in made["fixed"].items())
        yield Judged(
            number=number + row, path=picture.path, image=picture.image, results=results,
            snr_db={k: min(r) for k, r in ratios.items()},
            agreement={k: agreement(results[reference], results[k]) for k in others}, nef_equals_fixed=equal,
        )  # fmt: skip


def _check_models(runners: Mapping[str, Runner]) -> None:
    """At least one, and all with the same inputs and outputs."""
    if not runners:
        raise ConfigError("no model to simulate", where="onnx, bie, nef", fix="give at least one of them")
    (name, first), *others = runners.items()
    for other, runner in others:
        for what, a, b in (
            ("inputs", {t: v.shape for t, v in first.inputs.items()}, {t: v.shape for t, v in runner.inputs.items()}),
            ("outputs", set(first.outputs), set(runner.outputs)),
        ):
            if a != b:
                raise ModelError(
                    f"the {name} and the {other} model have different {what}", where=f"{a} and {b}",
                    fix="give files of one and the same model",
                )  # fmt: skip


def read_labels(labels: Mapping[str, Any] | str | Path | None) -> dict[str, Any]:
    """Name of a picture -> label, from a dict, a JSON object or a CSV of two columns.

    Raises:
      ConfigError: there are none, or the file is no such thing.
    """
    if labels is None:
        raise ConfigError("a metric needs labels", where="labels", fix="give a dict, a .json or a .csv (name, label)")
    if isinstance(labels, Mapping):
        return dict(labels)
    path = Path(labels).expanduser()
    try:
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                return {row[0]: row[1] for row in csv.reader(file) if len(row) > 1}
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        fix = "give a .json or .csv (name, label)"
        raise ConfigError(f"cannot read the labels: {e}", where=str(path), fix=fix) from e
    if not isinstance(held, dict):
        raise ConfigError("the labels are no JSON object", where=str(path), fix='write {"picture.jpg": label, ...}')
    return held


def _label_of(path: Path, known: Mapping[str, Any]) -> Any:
    for name in (path.name, path.stem):
        if name in known:
            return known[name]
    raise ConfigError("no label for a picture", where=path.name, fix="label every picture by its file's name")
