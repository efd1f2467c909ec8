"""A3, BlazeFace: faces and six points of each. python experiments/end_to_end/a3_faces.py --calibration 32"""

from pathlib import Path

import numpy as np
from flow import arguments, run
from PIL import Image

from knerex_jax import Box
from knerex_jax.e2e.boxes import suppress_repeats
from knerex_jax.zoo.fetch import packaged_file

SIDE, LEAST_SCORE, MOST_OVERLAP = 128, 0.5, 0.3
GRIDS = ((16, 2), (8, 6))
"""(cells per side, anchors per cell) of the two maps."""


def pre(picture: Image.Image) -> tuple[np.ndarray, tuple[float, int, int]]:
    """The picture inside a grey square: float32 [128, 128, 3], -1 to 1; and (scale, left, top) of it."""
    factor = SIDE / max(picture.size)
    width, height = (max(1, round(n * factor)) for n in picture.size)
    left, top = (SIDE - width) // 2, (SIDE - height) // 2
    square = Image.new("RGB", (SIDE, SIDE), (128, 128, 128))
    square.paste(picture.resize((width, height), Image.Resampling.BILINEAR), (left, top))
    return np.asarray(square, np.float32) / 127.5 - 1, (factor, left, top)


def post(outputs: dict[str, np.ndarray], context: tuple[float, int, int]) -> list[Box]:
    """The network tells boxes and points in pixels of its input, seen from the centre of each anchor."""
    factor, left, top = context
    logits = np.concatenate([outputs["Identity:0"], outputs["Identity_1:0"]], axis=1)[0, :, 0]
    raw = np.concatenate([outputs["Identity_2:0"], outputs["Identity_3:0"]], axis=1)[0]
    scores = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -50, 50)))
    sure = np.flatnonzero(scores > LEAST_SCORE)
    centres, raw, scores = anchors()[sure], raw[sure], scores[sure]
    middle, half = centres + raw[:, :2], raw[:, 2:4] / 2
    shift = np.array([left, top])
    boxes = np.concatenate([middle - half - shift, middle + half - shift], axis=1) / factor
    points = (centres[:, None] + raw[:, 4:].reshape(-1, 6, 2) - shift) / factor
    kept = suppress_repeats(boxes, scores, MOST_OVERLAP) if len(sure) else []
    return [Box("face", scores[k], tuple(boxes[k]), tuple(map(tuple, points[k]))) for k in kept]


def anchors() -> np.ndarray:
    """Centres of the 896 anchors, [896, 2] as x, y in pixels of the input."""
    found = []
    for cells, each in GRIDS:
        y, x = np.divmod(np.arange(cells * cells), cells)
        found.append(np.repeat(np.stack([x + 0.5, y + 0.5], axis=1) * (SIDE / cells), each, axis=0))
    return np.concatenate(found)


def main() -> None:
    asked = arguments(__doc__, pictures=6)
    folder: Path = asked.output / "A3_front" / "inputs"
    folder.mkdir(parents=True, exist_ok=True)
    portrait = Image.open(packaged_file("scikit-image", "skimage/data/astronaut.png")).convert("RGB")
    crops = {"whole": (0, 0, 512, 512), "upper": (60, 0, 380, 320), "close": (130, 20, 310, 200)}
    pictures = []
    for name, box in crops.items():
        pictures.append(folder / f"astronaut_{name}.png")
        portrait.crop(box).save(pictures[-1])
    others = ("camera.png", "chelsea.png", "coffee.png")
    pictures += [packaged_file("scikit-image", f"skimage/data/{name}") for name in others]
    run("A3_front", asked, pictures[: asked.pictures], pre, post, options={"data_analysis_pct": 1.0})


if __name__ == "__main__":
    main()
