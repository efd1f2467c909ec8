"""A model of two nodes and its data as files: small enough to quantize in a moment."""

from pathlib import Path

import numpy as np
from helpers import Net, samples

from knerex_jax.graph.write import write_onnx
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import unbind


def tiny_onnx(folder: Path, name: str = "tiny.onnx", channels: int = 4) -> Path:
    """Input `x` [1, 3, 8, 8], a convolution and a Relu."""
    net = Net({"x": (1, 3, 8, 8)})
    return write_onnx(unbind(net.model(net.add("Relu", net.conv("x", channels))), REGISTRY), folder / name)


def tiny_data(count: int, seed: int = 1) -> dict[str, np.ndarray]:
    """Samples for it: x [count, 3, 8, 8]."""
    net = Net({"x": (1, 3, 8, 8)})
    return samples(net.model("x"), count, seed)


def tiny_folder(folder: Path, count: int) -> Path:
    """The same as a folder of `.npy`."""
    folder.mkdir()
    for index, array in enumerate(tiny_data(count)["x"]):
        np.save(folder / f"{index}.npy", array)
    return folder


def tiny_npz(path: Path, count: int) -> Path:
    """The same as an `.npz`."""
    np.savez(path, **tiny_data(count))
    return path


def unsteady(data: str) -> str:
    """A module of functions that give an `.npz` beside it.

    The process of `data` is killed the first time, that of `never` always.
    """
    return f"""
import os, signal
from pathlib import Path
import numpy as np

def data():
    mark = Path(__file__).with_name("killed")
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {{"x": np.load(Path(__file__).with_name({data!r}))["x"]}}

def never():
    os.kill(os.getpid(), signal.SIGKILL)
"""
