"""A simulation in a terminal."""

from typing import Any

from rich.table import Table

from knerex_jax.e2e.run import Simulation


def summary_table(found: Simulation) -> Table:
    """A row per model: SNR of its worst output and agreement of its results with the first model, and the metric."""
    first = next(iter(found.models))
    several = len(found.models) > 1
    columns = ["model", *([f"SNR to {first}, dB", f"agrees with {first}"] if several else [])]
    table = Table(*columns, *(["metric"] if found.metric else []), box=None, pad_edge=False)
    for kind in found.models:
        ratios = found.snr_db.get(kind, {})
        cells = [f"{min(ratios.values()):.1f}" if ratios else "", f"{found.agreement[kind]:.3f}" if ratios else ""]
        table.add_row(kind, *(cells if several else []), *([_figures(found.metric[kind])] if found.metric else []))
    return table


def _figures(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_figures(v)}" for k, v in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
