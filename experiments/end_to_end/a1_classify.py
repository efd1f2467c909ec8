"""A1, MobileNetV2: the classes of photos. python experiments/end_to_end/a1_classify.py --calibration 32 --pictures 6"""

import numpy as np
from flow import arguments, run
from PIL import Image

from knerex_jax.e2e.ready import top1_accuracy, top5
from knerex_jax.zoo.fetch import packaged_file

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def pre(picture: Image.Image) -> np.ndarray:
    """Short side to 256 pixels, the middle 224 x 224, normalised: float32 [3, 224, 224]."""
    factor = 256 / min(picture.size)
    scaled = picture.resize([round(n * factor) for n in picture.size], Image.Resampling.BILINEAR)
    left, top = round((scaled.width - 224) / 2), round((scaled.height - 224) / 2)
    crop = np.asarray(scaled.crop((left, top, left + 224, top + 224)), np.float32)
    return ((crop / 255 - MEAN) / STD).transpose(2, 0, 1)


def main() -> None:
    asked = arguments(__doc__, pictures=20)
    photos = sorted(packaged_file("foolbox", "foolbox/data").glob("imagenet_*.jpg"))[: asked.pictures]
    labels = {p.name: p.stem.split("_")[2] for p in photos}
    run("A1", asked, photos, pre, top5, metric=top1_accuracy, labels=labels)


if __name__ == "__main__":
    main()
