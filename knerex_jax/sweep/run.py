"""The cells of a sweep, one after the other; its table is whole after each of them."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from knerex_jax.errors import ArtifactError, KnerexError
from knerex_jax.files import output_folder, write_atomic
from knerex_jax.quantize.config import PTQConfig, make_config
from knerex_jax.sweep.cell import Row, Shared, can_share, run_cell, share
from knerex_jax.sweep.grid import Cell, Sweep, grouped

TABLE = "sweep.csv"
_LAST = ("fps", "weight_bytes", "seconds", "error")


def run_sweep(sweep: Sweep, progress: Callable[[str, int, int | None], None] | None = None) -> list[Row]:
    """Runs what is not in the table yet, cells that failed included.

    Args:
      sweep: from `read_sweep`.
      progress: called with ("sweep", cells done, cells).

    Returns:
      One row per cell, in the order of the grid; those of an earlier run hold text.

    Raises:
      ArtifactError: the folder cannot be written, is in use, or holds another table.
    """
    with output_folder(sweep.out) as folder:
        path = folder / TABLE
        rows = {row["key"]: row for row in _read(path) if row.get("status") == "ok"}
        pending = [cell for cell in sweep.cells if cell.key not in rows]
        for group in grouped(pending):
            shared = _shared(group)
            for cell in group:
                if progress is not None:
                    progress("sweep", len(sweep.cells) - len(pending), len(sweep.cells))
                rows[cell.key] = run_cell(cell, shared.get(cell.key))
                pending.remove(cell)
                write_atomic(path, _text(_ordered(sweep, rows)).encode())
    return _ordered(sweep, rows)


def _shared(group: Sequence[Cell]) -> dict[str, Shared]:
    """Cell -> the one calibration of the group, for those that can share it; who cannot find out why by themselves."""
    configs = {cell.key: config for cell in group if (config := _config(cell)) and can_share(config)}
    if len(configs) < 2:
        return {}
    try:
        return dict.fromkeys(configs, share(list(configs.values())))
    except KnerexError:
        return {}


def _config(cell: Cell) -> PTQConfig | None:
    try:
        return make_config(**cell.options)
    except KnerexError:
        return None


def _ordered(sweep: Sweep, rows: dict[str, Row]) -> list[Row]:
    return [rows[cell.key] for cell in sweep.cells if cell.key in rows]


def _text(rows: Sequence[Row]) -> str:
    """CSV; columns in the order they come up, figures of the whole model last."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = [n for n in names if n not in _LAST] + [n for n in _LAST if n in names]
    held = io.StringIO()
    writer = csv.DictWriter(held, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return held.getvalue()


def _read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise ArtifactError(f"cannot read the table: {e}", where=str(path), fix="move it away") from e
    if rows and "key" not in rows[0]:
        raise ArtifactError("this is no table of a sweep", where=str(path), fix="choose another folder (out)")
    return rows
