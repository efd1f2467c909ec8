"""A6, a text detector: boxes around words. python experiments/end_to_end/a6_text.py --calibration 32 --pictures 4"""

from pathlib import Path

import numpy as np
from flow import arguments, run
from PIL import Image
from scipy import ndimage

from knerex_jax import Box, HeatMap
from knerex_jax.zoo import zoo_model
from knerex_jax.zoo.fetch import packaged_file

SIDE, CORE, SMALLEST = 320, 0.3, 10
"""Pixels of the input's side; least probability of a core; least pixels of one."""


def pre(picture: Image.Image) -> np.ndarray:
    """Stretched to the input: float32 [3, 320, 320], BGR, -1 to 1."""
    pixels = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)
    return (pixels[:, :, ::-1] / 127.5 - 1).transpose(2, 0, 1)


def post(outputs: dict[str, np.ndarray], size: tuple[int, int]) -> list[Box | HeatMap]:
    """The network marks the cores of lines; a box grows on all sides by 1.5 times its area over its circumference."""
    (held,) = outputs.values()
    shares = held[0, 0]
    labelled = np.zeros(shares.shape, np.int32)
    ndimage.label(shares > CORE, output=labelled)
    found: list[Box | HeatMap] = [HeatMap(shares, "text")]
    for number, (rows, columns) in enumerate(ndimage.find_objects(labelled), 1):
        core = labelled[rows, columns] == number
        if np.count_nonzero(core) < SMALLEST:
            continue
        height, width = core.shape
        growth = 1.5 * height * width / (2 * (height + width))
        low, high = (columns.start - growth, rows.start - growth), (columns.stop + growth, rows.stop + growth)
        box = [min(max(c, 0), SIDE) * n / SIDE for c, n in zip((*low, *high), size * 2, strict=True)]
        found.append(Box("text", float(shares[rows, columns][core].mean()), tuple(box)))
    return found


def main() -> None:
    asked = arguments(__doc__, pictures=6)
    folder: Path = asked.output / "A6_det" / "inputs"
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [packaged_file("scikit-image", f"skimage/data/{n}") for n in ("page.png", "text.png")]
    for k, sample in enumerate(zoo_model("A6_det").evaluation(max(asked.pictures - 2, 1)).inputs["x"]):
        pictures.append(folder / f"scene_{k}.png")
        pixels = np.round((sample[::-1] + 1) * 127.5).astype(np.uint8).transpose(1, 2, 0)
        Image.fromarray(pixels).save(pictures[-1])
    run("A6_det", asked, pictures[: asked.pictures], pre, post, options={"data_analysis_pct": 1.0})


if __name__ == "__main__":
    main()
