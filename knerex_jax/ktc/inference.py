"""The published inference call, with the published defaults."""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from knerex_jax.dumps.write import dump as write_dump
from knerex_jax.errors import ConfigError
from knerex_jax.inference import load_first, run_arrays
from knerex_jax.ktc.folders import output_folder
from knerex_jax.ktc.notes import Translation, modern, tell_one
from knerex_jax.runner import Runner

_IGNORED = ("it is ignored: the file holds what it said", lambda value: {})
OLD_INFERENCE: dict[str, Translation] = dict.fromkeys(("radix", "ioinfo_file", "setup_file", "command_file"), _IGNORED)
OLD_INFERENCE |= {"model": ("use model_id", lambda value: {"model_id": int(value)})}
OLD_INFERENCE |= {"threads": ("it is ignored: the simulator decides itself", lambda value: {})}
"""Arguments of `kneron_inference` that earlier releases had."""


def kneron_inference(
    pre_results: Sequence[np.ndarray],
    input_names: Sequence[str],
    nef_file: str | Path = "",
    onnx_file: str | Path = "",
    bie_file: str | Path = "",
    model_id: int | None = None,
    data_type: Literal["float", "fixed"] = "float",
    reordering: Sequence[str] | None = None,
    platform: int | str = 520,
    dump: bool = False,
    **old: Any,
) -> list[np.ndarray]:
    """Runs a model on one sample; of several files, the nef runs before the ONNX, and that before the bie.

    Args:
      pre_results: one array per input, in the ONNX input's shape.
      input_names: their names, in the same order.
      nef_file: a compiled model, in the simulator.
      onnx_file: a float model.
      bie_file: a fixed-point model, in the emulator.
      model_id: which model of a nef that holds several.
      data_type: "float", or "fixed" for codes (nef and bie).
      reordering: output names in the wanted order; default the model's.
      platform: is read from the file; another one than 520 that differs from it is warned of.
      dump: writes every tensor of this sample into `<model>.dump.zip` in `kneron_flow`; a warning says where.
      **old: arguments of earlier releases.

    Returns:
      One array per output, in the ONNX output's shape; float32, or integer codes.

    Raises:
      KnerexError: with what is wrong, where, and how to fix it.
    """
    model_id = modern(old, OLD_INFERENCE, kneron_inference).get("model_id", model_id)
    kind, file = next(
        ((k, f) for k, f in (("nef", nef_file), ("onnx", onnx_file), ("bie", bie_file)) if f), ("", "")
    )  # fmt: skip
    model = _loaded(kind, str(file), model_id, _stamp(file))
    if str(platform) not in ("520", model.platform) and model.platform:
        tell_one("platform", platform, model.platform, "the file was made for it")
    outputs = run_arrays(model, pre_results, input_names, data_type, reordering)
    if dump:
        sample = {t: [np.asarray(a)] for t, a in zip(input_names, pre_results, strict=True)}
        made = write_dump(model.model, sample, output_folder(None) / f"{Path(model.name).stem}.dump.zip")
        tell_one("dump", True, made.resolve(), "the published form is not known; knerex_jax.load_dump reads it")
    return outputs


def _stamp(file: str | Path) -> tuple[int, int]:
    """What changes with the content of a file."""
    try:
        held = os.stat(file)
    except OSError:
        return (0, 0)  # the loader says what is wrong
    return held.st_mtime_ns, held.st_size


@lru_cache(maxsize=4)
def _loaded(kind: str, file: str, model_id: int | None, stamp: tuple[int, int]) -> Runner:
    """A loaded model, kept: scripts call once per image, and compiling takes longer than running."""
    if not kind:
        raise ConfigError("no model to run", where="nef_file, onnx_file, bie_file", fix="give one of them")
    files = {"nef": "", "onnx": "", "bie": ""} | {kind: file}
    return load_first(files["nef"], files["onnx"], files["bie"], model_id)
