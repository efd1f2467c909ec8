"""The cells of a sweep, tried again where they fail; its table and page are whole after each of them."""

import csv
import io
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from knerex_jax.errors import ArtifactError, KnerexError
from knerex_jax.files import output_folder, write_atomic
from knerex_jax.quantize.config import PTQConfig, make_config
from knerex_jax.report.html import render_sweep
from knerex_jax.sweep.cell import Row, can_share, run_cell, share
from knerex_jax.sweep.grid import Cell, Sweep, grouped
from knerex_jax.sweep.page import page_data
from knerex_jax.sweep.pool import Here, Pool, WorkerLost, open_pool, taken

TABLE = "sweep.csv"
PAGE = "sweep.html"
_LAST = ("fps", "weight_bytes", "tries", "seconds", "error")


def run_sweep(
    sweep: Sweep,
    progress: Callable[[str, int, int | None], None] | None = None,
    *,
    workers: int = 1,
    ray: str | None = None,
    tries: int = 2,
) -> list[Row]:
    """Runs what is not in the table yet, cells that failed included.

    Args:
      sweep: from `read_sweep`.
      progress: called with ("sweep", cells done, cells).
      workers: processes; 1: this one; 0, with Ray: as many as there is room for.
      ray: address of a Ray cluster ("auto", "local"), instead of processes of this machine.
      tries: how often a cell is run at most; what is wrong with its settings, model or data is not tried again.

    Returns:
      One row per cell, in the order of the grid; those of an earlier run hold text.

    Raises:
      ArtifactError: the folder cannot be written, is in use, or holds another table.
      ConfigError: Ray is not installed, or there is no such cluster.
    """
    with output_folder(sweep.out) as folder:
        path = folder / TABLE
        rows = {row["key"]: row for row in _read(path) if row.get("status") == "ok"}
        pending = [cell for cell in sweep.cells if cell.key not in rows]
        if not pending:
            return _ordered(sweep, rows)
        done = len(sweep.cells) - len(pending)
        with open_pool(workers, ray, folder) as pool:
            for row in _rows(pending, pool, tries):
                if progress is not None:
                    progress("sweep", done := done + 1, len(sweep.cells))
                rows[row["key"]] = row
                write_atomic(path, _text(_ordered(sweep, rows)).encode())
        found = _ordered(sweep, rows)
        write_atomic(folder / PAGE, render_sweep(page_data(sweep, found)).encode())
    return found


def _rows(pending: Sequence[Cell], pool: Pool, tries: int) -> Iterator[Row]:
    """Rows in the order in which they are done."""
    if isinstance(pool, Here):
        for group in grouped(pending):
            sharing = _sharing(group)
            shared = _calibrated(list(sharing.values()), pool, tries) if sharing else None
            yield from (_tried(cell, shared if cell.key in sharing else None, pool, tries) for cell in group)
        return
    with ThreadPoolExecutor(pool.count, "knerex-sweep") as threads:
        try:
            for future in as_completed(_submitted(pending, pool, threads, tries)):
                yield future.result()
        finally:
            pool.stop()
            threads.shutdown(wait=False, cancel_futures=True)


def _submitted(pending: Sequence[Cell], pool: Pool, threads: ThreadPoolExecutor, tries: int) -> list[Future[Row]]:
    """All cells, group by group, behind their calibration; those of the next groups begin while workers are free."""
    waiting, running = deque(grouped(pending)), []
    ahead: deque[tuple[list[Cell], Mapping[str, Any], Future[Any] | None]] = deque()
    while waiting or ahead:
        while waiting and len(ahead) < pool.count:
            group = waiting.popleft()
            sharing = _sharing(group)
            future = threads.submit(_calibrated, list(sharing.values()), pool, tries) if sharing else None
            ahead.append((group, sharing, future))
        group, sharing, future = ahead.popleft()
        running += [
            threads.submit(_after, future if cell.key in sharing else None, cell, pool, tries) for cell in group
        ]
    return running


def _after(shared: Future[Any] | None, cell: Cell, pool: Pool, tries: int) -> Row:
    return _tried(cell, None if shared is None else shared.result(), pool, tries)


def _sharing(group: Sequence[Cell]) -> Mapping[str, PTQConfig]:
    """Cell -> config, for those that can share a calibration; who cannot find out why by themselves."""
    configs = {cell.key: config for cell in group if (config := _config(cell)) and can_share(config)}
    return configs if len(configs) > 1 else {}


def _calibrated(configs: Sequence[PTQConfig], pool: Pool, tries: int) -> Any:
    """What stands for a shared calibration; None where it cannot be had."""
    for _ in range(0 if pool.stopped else tries):
        try:
            found = pool.run(_share_or_none, configs)
            return None if found is None else pool.put(found)
        except WorkerLost:
            continue
    return None


def _share_or_none(configs: Sequence[PTQConfig]) -> Any:
    try:
        return share(configs)
    except KnerexError:
        return None


def _tried(cell: Cell, shared: Any, pool: Pool, tries: int) -> Row:
    """The row of a cell after as many tries as it takes; `shared`: what stands for its calibration."""
    row: Row = {}
    for number in range(1, tries + 1):
        try:
            row = pool.run(_row, cell, shared)
        except WorkerLost as e:
            row = {"key": cell.key, **cell.setting, "status": "failed", "error": str(e)}
        row["tries"] = number
        if row["status"] == "ok" or not row.pop("again", True) or pool.stopped:
            break
    row.pop("again", None)
    return row


def _row(cell: Cell, shared: Any) -> Row:
    return run_cell(cell, taken(shared))


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
