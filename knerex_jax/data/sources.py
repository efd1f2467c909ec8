"""Calibration and evaluation data -> batches in constant memory, whatever form the data comes in."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from knerex_jax.data import identity
from knerex_jax.data.files import NpyRows, is_image_folder, list_files, npz_members, subfolder
from knerex_jax.data.functions import is_function_name, load_function, user_failure
from knerex_jax.data.prefetch import run_ahead
from knerex_jax.data.preprocess import Preprocess, as_preprocess, image_extent, load_image
from knerex_jax.data.samples import InputFit, check_layout, sample_shape
from knerex_jax.errors import ConfigError, ModelError
from knerex_jax.graph.ir import TensorType
from knerex_jax.suggest import nearest

Sample = dict[str, np.ndarray]
"""Input name -> one sample, without the model's batch axis of 1."""

Job = Callable[[], Sample]

_FORMS = (
    "an .npz, a folder of .npy files or images, or a function by name (module:function); in Python also a dict of "
    "lists of arrays, an iterator of dicts, or a function"
)


@dataclass(frozen=True)
class Source:
    """Samples to calibrate with.

    Attributes:
      rereadable: `batches` may be called more than once and gives the same samples each time.
      count: number of samples, None if only reading tells.
      jobs: starts a reading: functions that each load one sample.
      identity: tells these samples from others: equal text, equal samples; gives None where nothing does.
      share: whether these are one part of the samples, which may be empty.
    """

    rereadable: bool
    count: int | None
    jobs: Callable[[], Iterable[Job]]
    identity: Callable[[], str | None] = lambda: None
    share: bool = False

    def part(self, number: int, parts: int, batch_size: int) -> "Source":
        """Every `parts`-th batch of the samples, from batch `number` on: batches that the whole has, too."""
        if parts == 1:
            return self

        def jobs() -> Iterator[Job]:
            return (job for i, job in enumerate(self.jobs()) if i // batch_size % parts == number)

        own = None if self.count is None else sum(i // batch_size % parts == number for i in range(self.count))
        return replace(self, count=own, jobs=jobs, share=True)

    def batches(self, batch_size: int, threads: int = 4, *, start: int = 0) -> Iterator[Sample]:
        """Reads the samples in order, `batch_size` at a time; the last batch may be smaller.

        Args:
          batch_size: samples per batch.
          threads: worker threads that load, decode and preprocess ahead.
          start: number of samples to leave out at the beginning, which are not loaded.

        Yields:
          Input name -> [b, *sample shape], float32 or the input's integer type; b samples stand in place of the
          model's batch axis of 1. The arrays are not reused.

        Raises:
          ModelError: there is no sample at all, or one that cannot be read or does not fit the model.
        """
        samples = run_ahead(itertools.islice(self.jobs(), start, None), threads, batch_size + threads)
        empty = start == 0 and not self.share
        while group := list(itertools.islice(samples, batch_size)):
            empty = False
            yield {name: np.stack([sample[name] for sample in group]) for name in group[0]}
        if empty:
            raise ModelError("there are no samples", where="calibration data", fix="give at least one sample per input")

    def arrays(self, count: int | None = None, threads: int = 4) -> Sample:
        """The first `count` samples (None: all) in memory.

        Returns:
          Input name -> [N, *sample shape].

        Raises:
          ModelError: as `batches`.
        """
        some = self if count is None else replace(self, jobs=lambda: itertools.islice(self.jobs(), count))
        parts = list(some.batches(64, threads))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def open_source(
    spec: Any,
    input_types: Mapping[str, TensorType],
    *,
    layout: str | None = None,
    preprocess: Preprocess | str | Mapping[str, Preprocess | str] | None = None,
    as_is: bool = False,
) -> Source:
    """Makes a source of whatever the user has.

    Args:
      spec: dict of input name -> list of arrays or one stacked array [N, ...]; path of an `.npz` with input names as
        keys; path of a folder of `.npy` files or of images (several inputs: one sub-folder each); an iterator of
        samples (read once); a function without arguments that returns an iterator (read as often as needed). An
        iterator yields dicts of input name -> array. A model with one input also takes the bare list, array or items.
        "module:function" stands for a function, which then may also return a dict, list or array.
        Arrays have the exact input shape, the sample's shape, or are channel last.
      input_types: name -> type of every model input, batch axis included.
      layout: "NCHW" or "NHWC" states how image-like arrays lie; None finds out.
      preprocess: for folders of images: a `Preprocess`, a preset's name, or one per input.
      as_is: whether arrays that fit both channel first and channel last are taken as they are, if no layout is stated.

    Raises:
      ModelError: missing or unknown input, different counts, no samples, files missing or unreadable.
      ConfigError: unknown layout, images without preprocessing, or data of a form that is not known.
    """
    check_layout(layout)
    fits = {name: InputFit(name, type_, layout, as_is) for name, type_ in input_types.items()}
    if is_function_name(spec) and not Path(spec).exists():
        function = load_function(spec, where := f"np_txt={spec}")
        try:
            made = function()
        except MemoryError:  # is told for the run as a whole
            raise
        except Exception as e:  # whatever the user's code raises
            raise user_failure(e, where) from e
        # A generator is asked for again with every reading.
        spec = made if isinstance(made, Mapping | np.ndarray | list | tuple) else function
    if isinstance(spec, Mapping):
        return _from_columns(_check_names(spec, fits), fits)
    if isinstance(spec, str | Path):
        return _from_path(Path(spec).expanduser(), fits, preprocess)
    if isinstance(spec, np.ndarray | list | tuple):
        return _from_columns({_only_input(fits, type(spec).__name__): spec}, fits)
    if callable(spec):
        return Source(True, None, lambda: _jobs_of_items(spec(), fits))
    if isinstance(spec, Iterable):
        return Source(False, None, lambda: _jobs_of_items(spec, fits))
    raise ConfigError(f"{type(spec).__name__} is no calibration data", where="np_txt", fix=f"give {_FORMS}")


def stack_inputs(inputs: Mapping[str, Any], input_types: Mapping[str, TensorType]) -> Sample:
    """All samples at once: name -> [N, *sample shape], checked like calibration data.

    What fits both channel first and channel last lies as the model has it: whoever calibrated had to say so.

    Raises:
      ModelError: an input is missing or unknown, counts differ, or a sample does not fit.
    """
    source = open_source(dict(inputs), input_types, as_is=True)
    assert source.count is not None, "a dict states its number of samples"
    return next(source.batches(source.count, 1))


def _from_columns(columns: Mapping[str, Sequence[Any] | np.ndarray], fits: Mapping[str, InputFit]) -> Source:
    """Random access: the columns hold N samples each."""
    counts = {name: _length(name, column) for name, column in columns.items()}
    count = _same_count(counts)

    def job(index: int) -> Job:
        return lambda: {name: fits[name](column[index], index) for name, column in columns.items()}

    return Source(True, count, lambda: map(job, range(count)), lambda: _identity(identity.of_arrays(columns), fits))


def _from_path(path: Path, fits: Mapping[str, InputFit], preprocess: Any) -> Source:
    if path.is_dir():
        return _from_folder(path, fits, preprocess)
    if not path.exists():
        beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        fix = nearest(path.name, beside, f"calibration data is {_FORMS}", count=1)
        raise ModelError("no such file or folder", where=str(path), fix=fix)
    if path.suffix == ".npz":
        rows = {name: NpyRows(path, name) for name in npz_members(path)}
    elif path.suffix == ".npy":
        rows = {_only_input(fits, "an .npy file"): NpyRows(path, None)}
    else:
        raise ConfigError(f"'{path.suffix}' files are no calibration data", where=str(path), fix=f"give {_FORMS}")
    _check_names(rows, fits)
    count = _same_count({name: r.count for name, r in rows.items()})

    def jobs() -> Iterator[Job]:
        names = list(fits)
        for index, values in enumerate(zip(*(rows[name] for name in names), strict=True)):
            yield lambda index=index, values=values: {n: fits[n](v, index) for n, v in zip(names, values, strict=True)}

    return Source(True, count, jobs, lambda: _identity(identity.of_files({"": [path]}), fits))


def _identity(contents: str | None, *settings: Any) -> str | None:
    """Of the samples that these settings make of these contents."""
    return None if contents is None else f"{contents} {settings!r}"


def _from_folder(path: Path, fits: Mapping[str, InputFit], preprocess: Any) -> Source:
    if isinstance(preprocess, Mapping):
        _check_names(preprocess, fits, complete=False)
    loaders, listed = {}, {}
    for name, fit in fits.items():
        folder = subfolder(path, name, only=len(fits) == 1)
        files = list_files(folder)
        listed[name] = files
        chosen = preprocess.get(name) if isinstance(preprocess, Mapping) else preprocess
        loaders[name] = _file_loader(folder, files, fit, chosen)
    count = _same_count({name: len(files) for name, files in listed.items()})

    def job(index: int) -> Job:
        return lambda: {name: load(index) for name, load in loaders.items()}

    return Source(
        True, count, lambda: map(job, range(count)),
        lambda: _identity(identity.of_files(listed), fits, preprocess),
    )  # fmt: skip


def _file_loader(
    folder: Path, files: Sequence[Path], fit: InputFit, preprocess: Preprocess | str | None
) -> Callable[[int], np.ndarray]:
    """Loads the i-th file of a folder of arrays or images."""
    if not is_image_folder(files):
        return lambda index: fit(NpyRows(files[index], None).whole(), index)
    if preprocess is None:
        raise ConfigError(
            "images need a stated preprocessing", where=str(folder),
            fix="set preprocess to a preset (kneron, tensorflow, yolo, pytorch, caffe, none) or a Preprocess",
        )  # fmt: skip
    load = image_loader(fit, preprocess)
    return lambda index: load(files[index], index)


def image_loader(fit: InputFit, preprocess: Preprocess | str) -> Callable[[Path, int], np.ndarray]:
    """(image file, number of the sample) -> a sample of an input.

    Raises:
      ModelError: the input takes no images; or, from the loader, the file is none.
      ConfigError: it may be channel first or last, or the preprocessing is unknown.
    """
    stated, shape = as_preprocess(preprocess), sample_shape(fit.type.shape)
    if fit.layout is None and len(shape) == 3 and {shape[0], shape[2]} <= {1, 3}:
        raise ConfigError(
            f"an input of shape {fit.type.shape} may be channel first or channel last", where=f"input '{fit.name}'",
            fix='state the layout of the model input: layout="NCHW" or layout="NHWC"',
        )  # fmt: skip
    last = len(shape) == 3 and shape[0] not in (1, 3) or fit.layout == "NHWC"
    image_extent(shape, channel_last=last)
    straight = replace(fit, layout="NCHW")
    return lambda path, index: straight(load_image(path, stated, shape, channel_last=last), index)


def _jobs_of_items(items: Iterable[Any], fits: Mapping[str, InputFit]) -> Iterator[Job]:
    """Samples that arrive one by one; checked in the worker threads, drawn in the reader's."""
    if not isinstance(items, Iterable):
        what = f"the function returned {type(items).__name__}, not an iterator"
        raise ConfigError(what, where="np_txt", fix=f"give {_FORMS}")
    for index, item in enumerate(items):
        named = item if isinstance(item, Mapping) else {_only_input(fits, f"a bare {type(item).__name__}"): item}
        # Copied at once: a generator may refill one buffer for every item, and we read ahead.
        sample = {name: np.array(value) for name, value in _check_names(named, fits).items()}
        yield lambda index=index, sample=sample: {name: fit(sample[name], index) for name, fit in fits.items()}


def _check_names(given: Mapping[str, Any], fits: Mapping[str, Any], *, complete: bool = True) -> Mapping[str, Any]:
    """The given names are the model's."""
    for name in given:
        if name not in fits:
            fix = f"{nearest(name, fits, '')} inputs: {', '.join(fits)}".lstrip()
            raise ModelError(f"the model has no input '{name}'", where="calibration data", fix=fix)
    missing = [name for name in fits if name not in given]
    if missing and complete:
        raise ModelError(
            f"no data for input '{missing[0]}'", where="calibration data",
            fix=f"give samples for every input: {', '.join(fits)}",
        )  # fmt: skip
    return given


def _length(name: str, column: Any) -> int:
    try:
        return len(column)
    except TypeError:
        raise ModelError(
            f"{type(column).__name__} is no list of samples", where=f"input '{name}'",
            fix="give a list of arrays, or one array whose first axis counts the samples",
        ) from None  # fmt: skip


def _same_count(counts: Mapping[str, int]) -> int:
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise ModelError(
            f"the inputs have different numbers of samples ({listed})", where="calibration data",
            fix="give every input the same number of samples, in the same order",
        )  # fmt: skip
    count = next(iter(counts.values()), 0)
    if count == 0:
        raise ModelError("there are no samples", where="calibration data", fix="give at least one sample per input")
    return count


def _only_input(fits: Mapping[str, InputFit], what: str) -> str:
    if len(fits) != 1:
        raise ConfigError(
            f"{what} does not say which of the inputs {', '.join(fits)} it feeds", where="calibration data",
            fix="name the inputs: a dict of input name -> arrays",
        )  # fmt: skip
    return next(iter(fits))
