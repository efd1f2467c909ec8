"""A sweep file -> the cells of its grid.

out = "sweep"                       # folder of sweep.csv; relative paths start at the folder of this file
[base]                              # options of every cell, as in a config file
p_onnx = "model.onnx"
np_txt = "calibration/"
[grid]                              # every combination of these
platform = ["520", "720"]
outlier_factor = [1.0, 2.0, 4.0]
"""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from knerex_jax.artifacts.report import versions
from knerex_jax.config_file import read_table, understood
from knerex_jax.data import identity
from knerex_jax.errors import ConfigError
from knerex_jax.quantize.config import known_options
from knerex_jax.quantize.options import check_names

_SHARED = ("p_onnx", "np_txt", "platform", "input_shape", "layout", "preprocess", "batch_size")
"""Options that decide what is measured; all others leave the counts as they are."""


@dataclass(frozen=True)
class Cell:
    """One combination of settings. Plain data: it can be sent to another process.

    Attributes:
      setting: option -> value, of the grid alone.
      options: all fields of `PTQConfig` that are given.
      key: names the cell, with the contents of its model and data and the version of this package.
    """

    setting: Mapping[str, Any]
    options: Mapping[str, Any] = field(repr=False)
    key: str

    @property
    def group(self) -> str:
        """Cells of one group can share a calibration."""
        return json.dumps({k: self.options.get(k) for k in _SHARED}, default=repr, sort_keys=True)


@dataclass(frozen=True)
class Sweep:
    """What a sweep file asks for.

    Attributes:
      cells: in the order of the grid, the last option changing fastest.
      names: options of the grid.
      out: folder of the results.
    """

    cells: tuple[Cell, ...]
    names: tuple[str, ...]
    out: Path


def read_sweep(path: str | Path) -> Sweep:
    """Reads a sweep file.

    Raises:
      ConfigError: not readable, an unknown key or option (with a suggestion), or an option without a list of values.
    """
    path = Path(path)
    table = read_table(path)
    check_names(table, ("out", "base", "grid"), where=str(path))
    base, grid, out = table.get("base", {}), table.get("grid", {}), table.get("out", "sweep")
    if not isinstance(base, dict) or not isinstance(grid, dict) or not isinstance(out, str):
        raise ConfigError(
            "base and grid have to be tables, out a folder", where=str(path), fix="write [base] and [grid]"
        )
    check_names(grid, known_options(), where=f"{path}, [grid]")
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            fix = f"write it like {name} = [{json.dumps(values, default=str)}]"
            raise ConfigError(f"{name} has no list of values", where=f"{path}, [grid]", fix=fix)
    if not grid:
        fix = "write options with lists of values under [grid]"
        raise ConfigError("there is nothing to sweep", where=str(path), fix=fix)
    cells = []
    for values in itertools.product(*grid.values()):
        setting = dict(zip(grid, values, strict=True))
        options = understood({**base, **setting}, path.parent, where=str(path))
        cells.append(Cell(setting, options, _key(options)))
    return Sweep(tuple(cells), tuple(grid), path.parent / out)


def grouped(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that can share a calibration, together."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.group, []).append(cell)
    return list(groups.values())


def _key(options: Mapping[str, Any]) -> str:
    files = {name: _files(options.get(name)) for name in ("p_onnx", "np_txt")}
    said = json.dumps(dict(options), default=repr, sort_keys=True)
    return hashlib.sha256(f"{said} {identity.of_files(files)} {versions()['knerex-jax']}".encode()).hexdigest()[:16]


def _files(place: Any) -> list[Path]:
    """The files behind a path: none where it is no path, or nothing is there (which the cell will say itself)."""
    path = Path(str(place))
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else []
