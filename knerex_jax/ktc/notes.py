"""Requests that are applied otherwise than asked, and names of earlier releases: said as warnings, never silent."""

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from knerex_jax.errors import ConfigError
from knerex_jax.quantize.note import Note
from knerex_jax.suggest import nearest

OURS = {
    "input_mapping": "np_txt",
    "percentage": "data_analysis_pct",
    "threads": "data_analysis_threads",
    "compiler_tiling": "fm_cut",
    "output_dir": "p_output",
    "id": "model_id",
    "version": "model_version",
}
"""Published name -> field of `PTQConfig`, where they differ."""


class AppliedOtherwise(UserWarning):
    """A request that is not applied as asked; the text says what is applied, and why."""


def tell(notes: Iterable[Note]) -> None:
    """Warns of each note, once per call."""
    for n in notes:
        where = next((published for published, ours in OURS.items() if ours == n.where), n.where)
        warnings.warn(str(replace(n, where=where)), AppliedOtherwise, stacklevel=4)


def tell_one(where: str, requested: Any, applied: Any, why: str) -> None:
    """Warns of one request."""
    tell([Note(where, str(requested), str(applied), why)])


Translation = tuple[str, Callable[[Any], dict[str, Any]]]
"""What to use instead, in words, and the old value as arguments of today ({}: it is ignored)."""


def modern(given: Mapping[str, Any], table: Mapping[str, Translation], function: Callable[..., Any]) -> dict[str, Any]:
    """Arguments that a function does not have any more as those of today; each is warned of.

    Raises:
      ConfigError: one that it never had.
    """
    made: dict[str, Any] = {}
    for name, value in given.items():
        if name not in table:
            what = f"{function.__name__} has no argument {name!r}"
            raise ConfigError(what, where=name, fix=nearest(name, inspect.signature(function).parameters))
        said, convert = table[name]
        warnings.warn(f"{name} is an argument of earlier releases: {said}", FutureWarning, stacklevel=3)
        made |= convert(value)
    return made


@contextmanager
def published_names() -> Iterator[None]:
    """Errors about options speak of them by the names used here."""
    try:
        yield
    except ConfigError as e:
        raise ConfigError(_published(e.what), where=_published(e.where), fix=_published(e.fix)) from e


def _published(text: str) -> str:
    for published, ours in OURS.items():
        text = text.replace(ours, published)
    return text
