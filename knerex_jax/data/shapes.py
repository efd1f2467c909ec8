"""Dimensions that a model leaves open, read off the first calibration sample."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from knerex_jax.data.files import NpyRows, npz_members
from knerex_jax.errors import ConfigError

Shape = tuple[int, ...]


def parse_shape(text: str, inputs: Sequence[str] = ()) -> tuple[str, Shape]:
    """Reads a named shape.

    Args:
      text: "name:1,3,224,224" (the name itself may hold colons), or "1,3,224,224" of the only input.
      inputs: names of the inputs, where the latter form is meant to be read.

    Returns:
      (name, shape).

    Raises:
      ConfigError: it cannot be read.
    """
    name, colon, dims = text.rpartition(":")
    if not colon and len(inputs) == 1:
        name, colon = inputs[0], ":"
    try:
        if colon:
            return name, tuple(int(d) for d in dims.split(","))
    except ValueError:
        pass
    raise ConfigError(f"cannot read the shape {text!r}", where="--input-shape", fix="write it as name:1,3,224,224")


def shapes_from_data(declared: Mapping[str, Shape], data: Any, layout: str | None = None) -> dict[str, Shape]:
    """Input shapes for a model with open dimensions, as far as the data states them without being consumed.

    Args:
      declared: input name -> shape as the file states it, 0 where it is open.
      data: calibration data; dicts of arrays or lists, arrays and lists, `.npz` and `.npy` files can be looked at,
        other forms say nothing here.
      layout: "NHWC" if the arrays are channel last.

    Returns:
      name -> full shape (0 for the batch axis) of the inputs with an open dimension beside the batch whose sample fits.
    """
    found = {}
    for name, sample in _first_samples(declared, data):
        wanted = declared.get(name)
        if wanted is None or 0 not in wanted[1:]:
            continue
        forms = [s for s in _forms(sample, len(wanted), layout) if _fits(s, wanted)]
        if forms:
            found[name] = forms[0]
    return found


def _forms(sample: Shape, rank: int, layout: str | None) -> Iterator[Shape]:
    """The ONNX shapes that a sample's shape can mean, the likeliest first; the batch axis is left open."""
    inner = sample[1:] if len(sample) == rank else sample
    channel_first = (inner[-1], *inner[:-1]) if len(inner) == 3 else inner
    for form in (channel_first, inner) if layout == "NHWC" else (inner, channel_first):
        yield (0, *form)


def _fits(form: Shape, wanted: Shape) -> bool:
    return len(form) == len(wanted) and all(w in (0, f) for f, w in zip(form[1:], wanted[1:], strict=True))


def _first_samples(declared: Mapping[str, Shape], data: Any) -> Iterator[tuple[str, Shape]]:
    only = next(iter(declared), "")
    if isinstance(data, Mapping):
        columns = data
    elif isinstance(data, np.ndarray | list | tuple):
        columns = {only: data}
    elif isinstance(data, str | Path) and Path(data).is_file():
        path = Path(data)
        names = npz_members(path) if path.suffix == ".npz" else []
        columns = {n: NpyRows(path, n) for n in names} or ({only: NpyRows(path, None)} if path.suffix == ".npy" else {})
    else:
        columns = {}
    for name, column in columns.items():
        first = next(iter(column), None)
        if first is not None:
            yield name, np.shape(first)
