"""Images to input arrays."""

import numpy as np
import pytest
from PIL import Image

from knerex_jax.data.preprocess import Preprocess, load_image
from knerex_jax.errors import ConfigError, ModelError


def _picture(tmp_path, height=6, width=8, name="a.png", mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path = tmp_path / name
    Image.fromarray(pixels).convert(mode).save(path)
    return path, pixels


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("kneron", lambda x: x / 256 - 0.5),
        ("tensorflow", lambda x: x / 127.5 - 1),
        ("yolo", lambda x: x / 255),
        ("pytorch", lambda x: (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
        ("caffe", lambda x: x[..., ::-1] - [103.939, 116.779, 123.68]),
        ("none", lambda x: x),
    ],
)
def test_presets(preset, expected, tmp_path):
    path, pixels = _picture(tmp_path)
    wanted = expected(pixels.astype(np.float64))
    first = load_image(path, Preprocess(preset), (3, 6, 8), channel_last=False)
    last = load_image(path, Preprocess(preset), (6, 8, 3), channel_last=True)
    assert first.dtype == last.dtype == np.float32
    np.testing.assert_allclose(first, wanted.transpose(2, 0, 1), rtol=3e-7, atol=1e-7)
    np.testing.assert_array_equal(first, last.transpose(2, 0, 1))


def test_stated_numbers_replace_those_of_the_preset(tmp_path):
    path, pixels = _picture(tmp_path)
    stated = Preprocess("pytorch", scale=2.0, mean=(1.0, 2.0, 3.0), std=4.0, order="BGR")
    wanted = (pixels[..., ::-1] * 2.0 - [1, 2, 3]) / 4
    np.testing.assert_allclose(load_image(path, stated, (6, 8, 3), channel_last=True), wanted, rtol=1e-6)


def test_grey_inputs(tmp_path):
    path, _ = _picture(tmp_path, mode="L")
    grey = np.asarray(Image.open(path), np.float32)
    np.testing.assert_array_equal(load_image(path, Preprocess(), (6, 8), channel_last=False), grey)
    np.testing.assert_array_equal(load_image(path, Preprocess(), (1, 6, 8), channel_last=False)[0], grey)


def test_stretch_goes_to_the_model_size(tmp_path):
    path, _ = _picture(tmp_path)
    wanted = np.asarray(Image.open(path).resize((4, 3), Image.Resampling.BILINEAR), np.float32)
    np.testing.assert_array_equal(load_image(path, Preprocess(size=(3, 4)), (3, 4, 3), channel_last=True), wanted)


@pytest.mark.parametrize("corner", [False, True])
def test_letterbox_keeps_the_aspect_and_pads(corner, tmp_path):
    path, pixels = _picture(tmp_path, 4, 8)
    done = load_image(path, Preprocess(resize="letterbox", fill=114, corner=corner), (8, 8, 3), channel_last=True)
    top = 0 if corner else 2
    np.testing.assert_array_equal(done[top : top + 4], pixels)
    assert (np.delete(done, range(top, top + 4), axis=0) == 114).all()


def test_crop_takes_the_centre(tmp_path):
    path, pixels = _picture(tmp_path, 4, 8)
    done = load_image(path, Preprocess(resize="crop"), (4, 4, 3), channel_last=True)
    np.testing.assert_array_equal(done, pixels[:, 2:6])
    scaled = np.asarray(Image.open(path).resize((16, 8), Image.Resampling.BILINEAR), np.float32)
    done = load_image(path, Preprocess(resize="crop", short_side=8), (4, 4, 3), channel_last=True)
    np.testing.assert_array_equal(done, scaled[2:6, 6:10])


def test_crop_larger_than_the_image_is_refused(tmp_path):
    path, _ = _picture(tmp_path)
    with pytest.raises(ConfigError, match="too small"):
        load_image(path, Preprocess(resize="crop", short_side=4), (6, 6, 3), channel_last=True)


def test_photos_are_turned_upright(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(path, exif=exif)
    with pytest.raises(ConfigError):
        load_image(path, Preprocess(resize="crop", short_side=4), (4, 8, 3), channel_last=True)
    assert load_image(path, Preprocess(resize="crop", short_side=4), (8, 4, 3), channel_last=True).shape == (8, 4, 3)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n and then nothing"])
def test_unreadable_image(content, tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"unreadable image[\s\S]*broken\.png"):
        load_image(path, Preprocess(), (3, 4, 4), channel_last=False)


def test_truncated_image(tmp_path):
    path, _ = _picture(tmp_path, 64, 64, "cut.jpg")
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(ModelError, match="unreadable image"):
        load_image(path, Preprocess(), (3, 4, 4), channel_last=False)


@pytest.mark.parametrize(
    ("options", "where"),
    [({"preset": "torch"}, "preset"), ({"resize": "squeeze"}, "resize"), ({"order": "GBR"}, "order"),
     ({"fill": 300}, "fill"), ({"std": (1.0, 0.0, 1.0)}, "std")],
)  # fmt: skip
def test_impossible_settings(options, where):
    with pytest.raises(ConfigError, match=f"preprocess.{where}"):
        Preprocess(**options)


def test_settings_that_do_not_fit_the_model(tmp_path):
    path, _ = _picture(tmp_path)
    with pytest.raises(ConfigError, match="3 entries"):
        load_image(path, Preprocess("pytorch"), (1, 6, 8), channel_last=False)
    with pytest.raises(ConfigError, match="resized"):
        load_image(path, Preprocess(size=(5, 5)), (3, 6, 8), channel_last=False)
    with pytest.raises(ModelError, match="takes no images"):
        load_image(path, Preprocess(), (4, 6, 8), channel_last=False)
