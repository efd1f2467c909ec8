"""Places in memory for what lives at different times: first fit in order of time, and an independent check."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from knerex_jax.compiler.layout import ENTRY, up


@dataclass(frozen=True)
class Region:
    """Bytes that are needed from one command to another, both included."""

    size: int
    first: int
    last: int


def place(regions: Sequence[Region]) -> tuple[list[int], int]:
    """An offset for every region, and the bytes that all of them span."""
    offsets = [0] * len(regions)
    live: list[tuple[int, int, int]] = []  # (offset, end, last), by offset
    top = 0
    for k in sorted(range(len(regions)), key=lambda k: (regions[k].first, -regions[k].size)):
        region = regions[k]
        live = [r for r in live if r[2] >= region.first]
        size, at = up(region.size, ENTRY), 0
        for offset, end, _ in live:
            if at + size <= offset:
                break
            at = max(at, end)
        offsets[k] = at
        live = sorted([*live, (at, at + size, region.last)])
        top = max(top, at + size)
    return offsets, top


def overlaps(regions: Sequence[Region], offsets: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of regions that need a byte at the same time: none, if the places are right."""
    found = []
    events = sorted(range(len(regions)), key=lambda k: regions[k].first)
    live: list[int] = []
    for k in events:
        live = [j for j in live if regions[j].last >= regions[k].first]
        found += [(j, k) for j in live if _touch(regions[j], offsets[j], regions[k], offsets[k])]
        live.append(k)
    return found


def _touch(a: Region, at_a: int, b: Region, at_b: int) -> bool:
    return at_a < at_b + b.size and at_b < at_a + a.size


def span(regions: Iterable[tuple[int, int]]) -> int:
    """The end of the last of (offset, size)."""
    return max((offset + size for offset, size in regions), default=0)
