"""What the examples share: arguments, quantization, simulation, a printed table."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import knerex_jax as kx
from knerex_jax.zoo import zoo_model


def arguments(text: str, pictures: int) -> argparse.Namespace:
    """--calibration, --pictures, --platform, -o."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--calibration", type=int, default=64, help="calibration samples")
    parser.add_argument("--pictures", type=int, default=pictures, help="pictures to simulate")
    parser.add_argument("--platform", default="720")
    parser.add_argument("-o", "--output", type=Path, default=Path("kneron_end_to_end"), help="folder")
    return parser.parse_args()


def run(
    name: str, asked: argparse.Namespace, pictures: Sequence[Path], pre: Callable[..., Any], post: Callable[..., Any],
    *, options: dict[str, Any] | None = None, **simulation: Any,
) -> kx.Simulation:  # fmt: skip
    """Quantizes a model of the zoo, and runs the application with the float, the fixed and the compiled model."""
    model, folder = zoo_model(name), asked.output / name
    result = kx.run_ptq(
        p_onnx=model.path(), np_txt=model.calibration(asked.calibration), platform=asked.platform, mode=1,
        input_shape=model.input_shapes, p_output=folder / "ptq", **(options or {}),
    )  # fmt: skip
    found = kx.simulate_images(
        pictures, folder, pre=pre, post=post, onnx=result.paths["origin"], bie=result.paths["bie"],
        nef=result.paths["nef"], **simulation,
    )  # fmt: skip
    show(name, found)
    return found


def show(name: str, found: kx.Simulation) -> None:
    """A row per picture, then one over all."""
    table = Table("picture", "SNR, dB", "agrees", "nef = fixed", box=None, pad_edge=False)
    for row in found.rows():
        ratio = float(row["snr_db"]["fixed"])
        equal = "yes" if row["nef_equals_fixed"] else "no"
        table.add_row(row["picture"], f"{ratio:.1f}", f"{row['agreement']['fixed']:.2f}", equal)
    worst = min(found.snr_db["fixed"].values())
    equal = f"{found.nef_equals_fixed} of {found.pictures}"
    table.add_row("all", f"{worst:.1f}", f"{found.agreement['fixed']:.2f}", equal)
    console = Console(width=100)
    console.print(f"{name}: fixed against float, {found.pictures} pictures")
    console.print(table)
    for kind, value in found.metric.items():
        console.print(f"{kind}: {value}")
    console.print(f"pictures: {found.folder / 'pictures'}")
