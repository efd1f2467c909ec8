"""What the compiler and the evaluator know of a machine: every figure with where it comes from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from knerex_jax.errors import ConfigError

GRANULE = (16, 8, 4)
"""Input channels, output channels and columns that the multipliers take at once: 512 on 530, as published. What a
convolution has less than that, or not in whole multiples, idles. Assumed for the other platforms."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One platform's memories and rates.

    Attributes:
      sram: bytes on chip.
      megahertz: clock.
      macs: 8-bit multiplications per cycle, at their peak.
      sustained: share of the peak that convolutions reach where the granule is full, 0 to 1.
      rdma, wdma, getw: GB/s (10**9 bytes) of reading, writing and loading weights.
      block: taps of a side that a kernel is rounded up to; 1: none.
      pointwise: cycles of a 1 x 1 convolution relative to its share of a larger kernel.
      depthwise: multiplications per cycle of convolutions of single channels.
      lanes: elements per cycle of sums, comparisons and interpolations.
      functions: elements per cycle of tables and products, which make up activations such as Swish.
      pool: elements under the windows per cycle.
      move: bytes per cycle that are rearranged (transposed, joined, split, resized).
      start: cycles before the first byte or product of a command.
      exposed: share of the time of data movement and computation side by side that is not hidden after all, 0 to 1.
      sources: name of a field above -> where its value comes from: "published: ...", "fitted: ..." or "assumed: ...".
    """

    sram: int
    megahertz: float
    macs: float
    rdma: float
    wdma: float
    getw: float
    block: int = 1
    sustained: float = 1.0
    pointwise: float = 1.0
    depthwise: float = 64.0
    lanes: float = 16.0
    functions: float = 16.0
    pool: float = 16.0
    move: float = 16.0
    start: float = 64.0
    exposed: float = 0.0
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False, hash=False)

    @property
    def assumed(self) -> tuple[str, ...]:
        """Names of the figures that no public source states."""
        return tuple(name for name in figures() if not self.sources.get(name, "").startswith("published"))

    def to_json(self) -> dict[str, float]:
        """The figures: what an ip_config holds."""
        return {name: getattr(self, name) for name in figures()}

    def changed(self, figures_: Mapping[str, Any], source: str) -> "Machine":
        """The same with other figures.

        Raises:
          ConfigError: there is no such figure, or its value makes no sense.
        """
        for name, value in figures_.items():
            if name not in figures():
                raise ConfigError(f"no figure {name!r}", where=source, fix=f"the figures are {', '.join(figures())}")
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or value < 0 or (value == 0 and name not in ("start", "exposed")):
                raise ConfigError(
                    f"{name} has to be a positive number, not {value!r}", where=source, fix="correct the value"
                )
        for name in ("exposed", "sustained"):
            if figures_.get(name, 0) > 1:
                raise ConfigError(f"{name} is a share", where=source, fix="use a number between 0 and 1")
        sources = {**self.sources, **dict.fromkeys(figures_, f"given: {source}")}
        return replace(self, **figures_, sources=sources)


@cache
def figures() -> tuple[str, ...]:
    """Names of the figures of a machine."""
    return tuple(f.name for f in fields(Machine) if f.name != "sources")


def _load() -> dict[str, Machine]:
    """The machines of `machines.json`: platform -> figure -> [value, source]."""
    table = json.loads(files("knerex_jax.targets").joinpath("machines.json").read_text())
    return {
        platform: Machine(**{k: v for k, (v, _) in rows.items()}, sources={k: text for k, (_, text) in rows.items()})
        for platform, rows in table.items()
    }


MACHINES = _load()
"""Platform -> machine."""


def write_ip_config(platform: str, folder: str | Path, machine: Machine | None = None) -> Path:
    """Writes `ip_config_<platform>.json`, which `read_ip_config` reads back, edited or not."""
    path = Path(folder) / f"ip_config_{platform}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps((machine or MACHINES[platform]).to_json(), indent=1) + "\n")
    return path


def read_ip_config(path: str | Path, machine: Machine) -> Machine:
    """The machine with the figures of a file; those it leaves out stay.

    Raises:
      ConfigError: not readable, or it holds what is no figure.
    """
    try:
        found = json.loads(Path(path).read_text())
    except (OSError, ValueError) as e:
        raise ConfigError(f"cannot be read: {e}", where=str(path), fix="start from an exported ip_config") from e
    if not isinstance(found, dict):
        raise ConfigError("is not an object", where=str(path), fix="start from an exported ip_config")
    return machine.changed(found, str(path))
