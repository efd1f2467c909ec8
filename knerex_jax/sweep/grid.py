"""A sweep file -> the cells of its grid.

out = "sweep"                       # folder of sweep.csv; relative paths start at the folder of this file
[base]                              # options of every cell, as in a config file
p_onnx = "model.onnx"
np_txt = "calibration/"
[grid]                              # every combination of these
platform = ["520", "720"]
outlier_factor = [1.0, 2.0, 4.0]
[[case]]                            # options that change together: the grid runs for each of these tables
p_onnx = "model.onnx"
np_txt = "calibration/"
[[case]]
p_onnx = "other.onnx"
np_txt = "other/"
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from knerex_jax.artifacts.report import versions
from knerex_jax.config_file import PATHS, is_no_path, read_table, understood
from knerex_jax.data import identity
from knerex_jax.errors import ConfigError
from knerex_jax.graph.files import model_files
from knerex_jax.quantize.config import known_options
from knerex_jax.quantize.options import check_names

_SHARED = ("p_onnx", "np_txt", "platform", "input_shape", "layout", "preprocess", "batch_size")
"""Options that decide what is measured; all others leave the counts as they are."""


@dataclass(frozen=True)
class Cell:
    """One combination of settings. Plain data: it can be sent to another process.

    Attributes:
      setting: option -> value, of the case and the grid alone.
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
      names: options of cases and grid.
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
    check_names(table, ("out", "base", "grid", "case"), where=str(path))
    base, grid, out, cases = (
        table.get("base", {}),
        table.get("grid", {}),
        table.get("out", "sweep"),
        _cases(table, path),
    )
    if not isinstance(base, dict) or not isinstance(grid, dict) or not isinstance(out, str):
        raise ConfigError(
            "base and grid have to be tables, out a folder", where=str(path), fix="write [base] and [grid]"
        )
    check_names(grid, known_options(), where=f"{path}, [grid]")
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            fix = f"write it like {name} = [{json.dumps(values, default=str)}]"
            raise ConfigError(f"{name} has no list of values", where=f"{path}, [grid]", fix=fix)
    if not grid and len(cases) < 2:
        fix = "write options with lists of values under [grid]"
        raise ConfigError("there is nothing to sweep", where=str(path), fix=fix)
    cells, parts = [], cache(model_files)
    for case, values in itertools.product(cases, itertools.product(*grid.values())):
        setting = {**case, **dict(zip(grid, values, strict=True))}
        options = _anywhere(understood({**base, **setting}, path.parent, where=str(path)))
        cells.append(Cell(setting, options, _key({**base, **setting}, options, parts)))
    return Sweep(tuple(cells), tuple(dict.fromkeys(name for cell in cells for name in cell.setting)), path.parent / out)


def _cases(table: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    cases = table.get("case", [{}])
    if not isinstance(cases, list) or not cases or not all(isinstance(case, dict) for case in cases):
        raise ConfigError("case has to be a list of tables", where=str(path), fix="write [[case]] before each")
    for number, case in enumerate(cases):
        check_names(case, known_options(), where=f"{path}, [[case]] number {number + 1}")
        if set(case) != set(cases[0]):
            first, this = (", ".join(sorted(set(a) - set(b))) for a, b in ((cases[0], case), (case, cases[0])))
            told = [f"{names} of number {k}" for names, k in ((first, 1), (this, number + 1)) if names]
            fix = f"give {' and '.join(told)} in each"
            raise ConfigError("the cases do not state the same options", where=f"{path}, [[case]]", fix=fix)
    return cases


def _anywhere(options: Mapping[str, Any]) -> dict[str, Any]:
    """With absolute paths, which hold in other processes, too."""
    return {
        k: str(Path(v).absolute()) if k in PATHS and isinstance(v, str) and not is_no_path(k, v) else v
        for k, v in options.items()
    }


def grouped(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that can share a calibration, together."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.group, []).append(cell)
    return list(groups.values())


def _key(given: Mapping[str, Any], options: Mapping[str, Any], parts: Callable[[Path], Iterable[Path]]) -> str:
    """Of what the file says, which does not depend on where the file lies, and of what the files it names hold."""
    files = {name: _files(name, options.get(name)) for name in PATHS if name != "p_output"}
    files["p_onnx"] = [held for path in files["p_onnx"] for held in parts(path)]
    said = json.dumps(dict(given), default=repr, sort_keys=True)
    return hashlib.sha256(f"{said} {identity.of_files(files)} {versions()['knerex-jax']}".encode()).hexdigest()[:16]


def _files(name: str, place: Any) -> list[Path]:
    """The files behind a path: none where it is no path, or nothing is there (which the cell will say itself)."""
    if not isinstance(place, str | Path) or is_no_path(name, str(place)):
        return []
    path = Path(place)
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else []
