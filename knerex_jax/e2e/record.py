"""Results out: a line of JSON and rows of CSV per picture, and the drawn picture."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from knerex_jax.artifacts.stages import finite
from knerex_jax.e2e.draw import draw_results, drawable, side_by_side
from knerex_jax.e2e.results import Box, HeatMap, Label, to_json
from knerex_jax.files import replacing, write_atomic

_COLUMNS = ("picture", "model", "place", "type", "label", "score", "left", "top", "right", "bottom", "points", "text")


@dataclass(frozen=True)
class Judged:
    """What the models said of one picture.

    Attributes:
      number: of the picture, from 0.
      path: of its file.
      image: itself.
      results: model -> what the post-processing returned.
      snr_db: other models than the first -> SNR of its outputs against the first's, the lowest of them.
      agreement: likewise, 0 to 1.
      nef_equals_fixed: whether these two gave the same outputs; None without both.
    """

    number: int
    path: Path
    image: Image.Image
    results: Mapping[str, Any]
    snr_db: Mapping[str, float]
    agreement: Mapping[str, float]
    nef_equals_fixed: bool | None

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.number:06d}_{self.path.stem}"

    def to_json(self, picture: str | None) -> dict[str, Any]:
        """The line of `results.jsonl`; `picture` is the path of the drawn one."""
        said: dict[str, Any] = {"picture": self.path.name, "results": {m: to_json(r) for m, r in self.results.items()}}
        for key in ("snr_db", "agreement"):
            if getattr(self, key):
                said[key] = finite(getattr(self, key))
        if self.nef_equals_fixed is not None:
            said["nef_equals_fixed"] = self.nef_equals_fixed
        return said | ({"drawn": picture} if picture else {})


class Recorder:
    """Writes what comes, picture by picture."""

    def __init__(self, folder: Path, lines: BinaryIO, table: BinaryIO, *, draw: bool) -> None:
        self._folder, self._lines, self._table, self._draw = folder, lines, table, draw
        self._row(_COLUMNS)
        self.drawn: list[Path] = []

    def take(self, judged: Judged) -> None:
        """The next picture."""
        picture = None
        if self._draw and all(drawable(r) for r in judged.results.values()):
            picture = f"pictures/{judged.name}.png"
            buffer = io.BytesIO()
            drawn(judged).save(buffer, "PNG")
            write_atomic(self._folder / picture, buffer.getvalue())
            self.drawn.append(self._folder / picture)
        self._lines.write((json.dumps(judged.to_json(picture), ensure_ascii=False) + "\n").encode())
        for model, result in judged.results.items():
            for place, one in enumerate(result if isinstance(result, list | tuple) else [result]):
                self._row((judged.path.name, model, place, *_cells(one)))

    def _row(self, cells: Sequence[Any]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        self._table.write(text.getvalue().encode())


@contextmanager
def recording(folder: Path, *, draw: bool) -> Iterator[Recorder]:
    """Yields what writes `results.jsonl`, `results.csv` and `pictures/` of a folder; the first two appear at the end.

    Raises:
      ArtifactError: the folder cannot be written.
    """
    with replacing(folder / "results.jsonl", folder / "results.csv") as (lines, table):
        yield Recorder(folder, lines, table, draw=draw)


def drawn(judged: Judged) -> Image.Image:
    """The columns of one picture, in the order of the models."""
    columns = []
    for model, result in judged.results.items():
        title = model
        if model in judged.snr_db:
            title += f"   {judged.snr_db[model]:.1f} dB   agrees {judged.agreement[model]:.2f}"
        if model == "nef" and judged.nef_equals_fixed is not None:
            title += "   = fixed" if judged.nef_equals_fixed else "   differs from fixed"
        columns.append((title, draw_results(judged.image, result)))
    return side_by_side(columns)


def _cells(result: Any) -> tuple[Any, ...]:
    match result:
        case Box(label=label, score=score, xyxy=xyxy, points=points):
            places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            return ("box", label, float(score), *(round(float(c), 2) for c in xyxy), places, "")
        case Label(name=name, score=score):
            return ("label", name, float(score), "", "", "", "", "", "")
        case HeatMap(name=name):
            return ("heat map", name, "", "", "", "", "", "", "")
        case str():
            return ("text", "", "", "", "", "", "", "", result)
    return ("json", "", "", "", "", "", "", "", json.dumps(to_json(result), ensure_ascii=False))
