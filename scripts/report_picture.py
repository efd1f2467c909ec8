"""Draws docs/report.png: the default job's report in headless Chromium (needs the `test` extra and Chromium)."""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from knerex_jax.demo import run_default

WIDTH, HEIGHT = 1240, 1000
TARGET = Path(__file__).parent.parent / "docs" / "report.png"


def main() -> int:
    chromium = shutil.which("chromium")
    if chromium is None:
        print("there is no chromium on this machine", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        result, _ = run_default({"p_output": folder})
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(120_000)
        page.goto(result.paths["report_html"].as_uri())
        page.wait_for_function("document.documentElement.dataset.ready === 'yes'")
        # What is asked first, then what one looks at longest.
        page.evaluate("for (const id of ['options', 'tensors']) document.getElementById(id).remove()")
        page.evaluate("document.querySelector('#snr .scroll').remove(); document.querySelector('#snr .tools').remove()")
        page.screenshot(path=TARGET, clip={"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT + 300}, full_page=True)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
