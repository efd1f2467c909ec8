"""The folder through which the environments talk to each other; needs nothing but numpy.

FOLDER/MODEL/float.onnx                     what every peer quantizes: static shapes, batch 1
FOLDER/MODEL/calibration.npz                [N, ...] by input name
FOLDER/MODEL/PEER/CONFIGURATION.onnx        what the peer made of it: QuantizeLinear and DequantizeLinear around float
FOLDER/MODEL/PEER/CONFIGURATION.json        how: calibration samples, seconds; or the error
FOLDER/MODEL/PEER/CONFIGURATION.judged.json what that is worth
"""

import argparse
import json
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Exchange:
    """What one peer reads and writes for one model."""

    folder: Path
    peer: str

    @property
    def float_model(self) -> Path:
        return self.folder / "float.onnx"

    @property
    def own(self) -> Path:
        """The peer's folder, made if it is missing."""
        path = self.folder / self.peer
        path.mkdir(parents=True, exist_ok=True)
        return path

    def calibration(self) -> Arrays:
        with np.load(self.folder / "calibration.npz") as stored:
            return dict(stored)

    def quantized(self, configuration: str) -> Path:
        return self.own / f"{configuration}.onnx"

    def record(self, configuration: str) -> Path:
        return self.own / f"{configuration}.json"


Quantize = Callable[[Exchange, Any], dict[str, Any]]
"""(exchange, configuration) -> what to note about it; writes `exchange.quantized(...)`."""


def count_of(arrays: Arrays) -> int:
    return len(next(iter(arrays.values())))


def feeds(arrays: Arrays) -> Iterator[Arrays]:
    """Sample by sample, each with its batch axis."""
    return ({name: array[i : i + 1] for name, array in arrays.items()} for i in range(count_of(arrays)))


def run_peer(peer: str, configurations: dict[str, Any], quantize: Callable[[Exchange, str, Any], dict]) -> None:
    """Makes every asked configuration of every asked model; what is on record, success or failure, is kept."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--models", required=True)
    parser.add_argument("--configurations", help=f"default: all of {', '.join(configurations)}")
    parser.add_argument("--retry", action="store_true", help="try the failed ones again")
    args = parser.parse_args()
    asked = args.configurations.split(",") if args.configurations else list(configurations)
    for model in args.models.split(","):
        exchange = Exchange(args.folder / model, peer)
        for name in (n for n in asked if n in configurations):
            record = exchange.record(name)
            if record.is_file() and not (args.retry and "error" in json.loads(record.read_text())):
                continue
            record.write_text(json.dumps(_attempt(exchange, name, configurations[name], quantize), indent=1))
            print(model, peer, name, record.read_text().replace("\n", ""), flush=True)


def _attempt(
    exchange: Exchange, name: str, configuration: Any, quantize: Callable[[Exchange, str, Any], dict]
) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        noted = quantize(exchange, name, configuration)
    except Exception as error:  # the failure of a peer is a result
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"[:500], "seconds": time.perf_counter() - started}
    return {**noted, "seconds": time.perf_counter() - started}
