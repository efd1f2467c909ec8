"""Pictures in: listed, decoded, and made inputs of a model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from knerex_jax.data.files import is_image_folder, list_files
from knerex_jax.data.preprocess import PRESETS, Preprocess, open_picture
from knerex_jax.data.samples import InputFit, sample_shape
from knerex_jax.data.sources import image_loader
from knerex_jax.e2e.hooks import Hook, find_hook
from knerex_jax.errors import ConfigError, KnerexError, ModelError
from knerex_jax.runner import Runner


@dataclass(frozen=True)
class Prepared:
    """A picture and what the models read of it.

    Attributes:
      path: of its file.
      image: RGB, upright.
      inputs: input name -> one sample.
      context: what the pre-processing gave beside them; without, (width, height) of the picture.
    """

    path: Path
    image: Image.Image
    inputs: Mapping[str, np.ndarray]
    context: Any


Prepare = Callable[[Path, Image.Image], Prepared]


def list_pictures(images: str | Path | Sequence[str | Path]) -> list[Path]:
    """The pictures of a folder (and below it), in the natural order of their names; or those that are given.

    Raises:
      ModelError: there is none.
    """
    if not isinstance(images, str | Path):
        files = [Path(p).expanduser() for p in images]
    elif (folder := Path(images).expanduser()).is_dir():
        files = list_files(folder)
        if not is_image_folder(files):
            raise ModelError("the folder holds arrays, no pictures", where=str(folder), fix="use knerex infer for them")
    elif folder.is_file():
        files = [folder]
    else:
        raise ModelError("no such folder or picture", where=str(images), fix="check the path")
    if not files:
        raise ModelError("there are no pictures", where="images", fix="give at least one")
    return files


def preparer(pre: Any, runner: Runner, layout: str | None = None) -> Prepare:
    """Makes inputs of pictures.

    Args:
      pre: a function of a picture (PIL, RGB), or "module:function": gives the array of the only input, or a dict of
        arrays by input, or a pair of that and a context for the post-processing. Or a preset's name or `Preprocess`.
      runner: the model that reads them.
      layout: of the model's input where a preset cannot tell.

    Raises:
      ConfigError: there is no such function or preset.
    """
    fits = {name: InputFit(name, type_, layout) for name, type_ in runner.inputs.items()}
    if isinstance(pre, Preprocess) or pre in PRESETS:
        if len(fits) != 1:
            what = f"a preset feeds one input, the model has {', '.join(fits)}"
            raise ConfigError(what, where="pre", fix="write a function")
        ((name, fit),) = fits.items()
        load = image_loader(fit, pre)
        return lambda path, image: Prepared(path, image, {name: load(path, 0)}, image.size)
    if isinstance(pre, str) and ":" not in pre:
        fix = f"write module:function, or a preset: {', '.join(PRESETS)}"
        raise ConfigError(f"{pre!r} is neither a function nor a preset", where="pre", fix=fix)
    hook = find_hook("pre", pre)
    return lambda path, image: _prepared(hook, fits, path, image)


def read_picture(path: Path) -> Image.Image:
    """Decodes one file: RGB, upright.

    Raises:
      ModelError: it is no readable image.
    """
    return open_picture(path)


def _prepared(hook: Hook, fits: Mapping[str, InputFit], path: Path, image: Image.Image) -> Prepared:
    where = f"picture {path.name}"
    made, context = hook(where, image.copy()), image.size
    if isinstance(made, tuple) and len(made) == 2:
        made, context = made
    if not isinstance(made, Mapping):
        if len(fits) != 1:
            fix = f"return a dict of {', '.join(fits)}"
            raise hook.refuse(f"it gave {type(made).__name__} for several inputs", where, fix)
        made = {next(iter(fits)): made}
    if set(made) != set(fits):
        raise hook.refuse(f"it gave inputs {', '.join(map(str, made))}", where, f"return {', '.join(fits)}")
    inputs = {}
    for name, fit in fits.items():
        try:
            inputs[name] = fit(made[name], 0)
        except KnerexError as e:
            fix = f"return {fit.type.dtype} of shape {sample_shape(fit.type.shape)} for {name!r}"
            raise hook.refuse(e.what, where, fix) from e
    return Prepared(path, image, inputs, context)
