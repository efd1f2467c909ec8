"""Reports of real models, and of one that goes wrong, opened in headless Chromium; see README.md.

python experiments/report_pages/open.py [--cases A1,A6_det,A8,bad] [--samples 8] [--pictures FOLDER]
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from browsing import ARGUMENTS, CHROMIUM, READY, opened  # noqa: E402
from playwright.sync_api import Browser, sync_playwright  # noqa: E402
from real_models import REAL_MODELS  # noqa: E402
from report_runs import host_net, run  # noqa: E402

import knerex_jax as kx  # noqa: E402

kx.keep_compilations()

HEADS = ("report", "MB", "ready, s", "faults", "figures", "first on the page")


def made(case: str, samples: int, folder: Path) -> kx.PTQResult:
    """The run of one case: a real model in mode 3, or a net with nodes on the processor and an output at 0 dB."""
    if case == "bad":
        return run(host_net, folder, quan_config={"act": {"min": -1e6, "max": 1e6}})
    real = REAL_MODELS[case]()
    data = {t: list(np.asarray(v)) for t, v in real.calibration(samples).items()}
    return kx.run_ptq(
        p_onnx=real.path, np_txt=data, p_output=folder, platform="720", mode=3, batch_size=4,
        input_shape=dict(real.input_shapes) or None,
    )  # fmt: skip


def looked_at(browser: Browser, path: Path, picture: Path | None) -> dict[str, Any]:
    """What a browser makes of a page: faults are messages of its console and anything loaded from outside."""
    started = time.perf_counter()
    page, faults = opened(browser, path, viewport={"width": 1240, "height": 1600})
    page.wait_for_function(READY)
    ready = time.perf_counter() - started
    # The table's rows lead to the details of a node.
    row = page.locator("[id^=node-] td").first
    if row.count():
        row.click()
        assert page.locator("#details h3").inner_text()
    if picture is not None:
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=picture)
    found = {
        "ready": ready,
        "faults": faults,
        "figures": page.locator(".main-svg").count(),
        "first": " ".join(page.locator("#verdict").inner_text().split())[:110],
    }
    page.close()
    return found


def main() -> int:
    """Prints a row per case; exit code 1 if a browser complains of one, or a page is too large."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="A1,A6_det,A8,bad")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--pictures", type=Path)
    asked = parser.parse_args()
    if CHROMIUM is None:
        print("there is no chromium on this machine", file=sys.stderr)
        return 1
    print("| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS), sep="\n", flush=True)
    wrong = False
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for case in asked.cases.split(","):
            place = Path(folder) / case
            place.mkdir()
            path = made(case, asked.samples, place).paths["report_html"]
            picture = None if asked.pictures is None else asked.pictures / f"{case}.png"
            found = looked_at(browser, path, picture)
            size = path.stat().st_size / 1e6
            wrong |= bool(found["faults"]) or size > 8
            row = (case, f"{size:.1f}", f"{found['ready']:.1f}", len(found["faults"]), found["figures"], found["first"])
            print("| " + " | ".join(map(str, row)) + " |", flush=True)
            for fault in found["faults"]:
                print("  fault:", fault, file=sys.stderr)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
