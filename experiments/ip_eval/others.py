"""Networks with published times that the fit never saw: what the machines' figures are worth.

    python experiments/ip_eval/others.py

Sources: the maker's model pages (an older release than the table), and for ResNet-50 the rates of multiplication that
the published times of all five platforms imply.
"""

import tempfile
from pathlib import Path

import networks
import onnx

import knerex_jax as kx

FPS = {
    ("ResNet-18", "520"): 20.44, ("ResNet-18", "720"): 141.4, ("EfficientNet-B0", "520"): 42.3,
    ("EfficientNet-B0", "720"): 157.5,
}  # fmt: skip
GIGA_MACS = {("ResNet-50", p): r for p, r in {"520": 28, "530": 151, "630": 94, "720": 225, "730": 323}.items()}


def main() -> None:
    print("| network | platform | published, ms | estimated, ms | error |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, build in networks.OTHERS.items():
            path = Path(folder) / "model.onnx"
            onnx.save(build(), path)
            for platform in kx.TARGETS:
                key = name, platform
                if key not in FPS and key not in GIGA_MACS:
                    continue
                found = kx.evaluate(path, platform)
                said = 1e3 / FPS[key] if key in FPS else found.totals.products / GIGA_MACS[key] * 1e-6
                error = 100 * (found.time_ms / said - 1)
                print(f"| {name} | {platform} | {said:.4g} | {found.time_ms:.4g} | {error:+.0f} % |", flush=True)


if __name__ == "__main__":
    main()
