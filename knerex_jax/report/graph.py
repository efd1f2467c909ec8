"""Where the nodes of a model stand in a drawing, and how its edges run between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from knerex_jax.report.view import NodeView

WIDTH, HEIGHT = 176, 38
"""Of a box."""

_ACROSS, _DOWN = WIDTH + 20, 66
"""Between the middles of neighbouring boxes."""

_GRID = 72.0
"""The same in the layout engine's units."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Drawing:
    """A layered drawing, the inputs on top; lengths in pixels.

    Attributes:
      width, height: of all.
      boxes: id of a node -> left upper corner.
      edges: (id of a node, id of its reader) -> SVG path.
    """

    width: float
    height: float
    boxes: Mapping[int, Point]
    edges: Mapping[tuple[int, int], str]


def draw(nodes: Sequence[NodeView]) -> Drawing:
    """Lays a model out, Sugiyama's way: layers, few crossings, long edges led around boxes."""
    made = {t: n.id for n in nodes for t in n.row.get("outputs", (n.tensor,)) if t}
    edges = [(made[t], n.id) for n in nodes for t in n.row.get("inputs", ()) if t in made]
    edges = [e for e in dict.fromkeys(edges) if e[0] != e[1]]
    middles, ways = _layout(edges)
    below = max((y for _, y in middles.values()), default=-_DOWN)
    for k, n in enumerate(n for n in nodes if n.id not in middles):  # nothing reads or feeds these
        middles[n.id] = (k * float(_ACROSS), below + _DOWN)
    points = [*middles.values(), *(p for way in ways.values() for p in way)] or [(0.0, 0.0)]
    left, top = min(x for x, _ in points) - WIDTH / 2 - 8, min(y for _, y in points) - HEIGHT / 2 - 8
    right, bottom = max(x for x, _ in points) + WIDTH / 2 + 8, max(y for _, y in points) + HEIGHT / 2 + 8

    def moved(p: Point) -> Point:
        return p[0] - left, p[1] - top

    boxes = {k: (x - WIDTH / 2, y - HEIGHT / 2) for k, p in middles.items() for x, y in (moved(p),)}
    return Drawing(right - left, bottom - top, boxes, {e: _path([moved(p) for p in way]) for e, way in ways.items()})


def _layout(edges: Sequence[tuple[int, int]]) -> tuple[dict[int, Point], dict[tuple[int, int], list[Point]]]:
    """Middles of the nodes that have edges, and the points that every edge passes."""
    from fast_sugiyama import from_edges

    if not edges:
        return {}, {}
    ids = sorted({n for e in edges for n in e})
    number = {n: k for k, n in enumerate(ids)}
    made = from_edges([(number[a], number[b]) for a, b in edges], vertex_spacing=_GRID).dot_layout(spacing=_GRID)
    middles: dict[int, Point] = {}
    ways: dict[tuple[int, int], list[Point]] = {}
    for positions, _, _, drawn in made:  # one per connected part; numbers from len(ids) on are bends of its edges
        places = {int(k): (x / _GRID * _ACROSS, -y / _GRID * _DOWN) for k, (x, y) in positions}
        following: dict[int, list[int]] = {}
        for a, b in drawn or ():
            following.setdefault(int(a), []).append(int(b))
        for start in sorted(k for k in places if k < len(ids)):
            middles[ids[start]] = places[start]
            for after in following.get(start, ()):
                way = [start, after]
                while way[-1] >= len(ids):
                    way.append(following[way[-1]][0])
                ways[ids[start], ids[way[-1]]] = [places[k] for k in way]
    return middles, ways


def _path(points: Sequence[Point]) -> str:
    """From under the first box to the top of the last one, vertical at every point."""
    (x, y), *rest = points
    y += HEIGHT / 2
    path = [f"M{x:.1f} {y:.1f}"]
    for k, (u, v) in enumerate(rest):
        v -= HEIGHT / 2 if k == len(rest) - 1 else 0
        middle = (y + v) / 2
        path.append(f"C{x:.1f} {middle:.1f} {u:.1f} {middle:.1f} {u:.1f} {v:.1f}")
        x, y = u, v
    return "".join(path)
