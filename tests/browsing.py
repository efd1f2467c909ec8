"""Headless Chromium, as it is installed on the machine, and pages in it."""

import shutil
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
READY = "document.documentElement.dataset.ready === 'yes'"


def opened(browser: Any, path: Path, **options: Any) -> tuple[Any, list[str]]:
    """A page, and a list of what goes wrong on it: errors, warnings, and anything loaded from outside."""
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(120_000)
    faults: list[str] = []
    page.on("console", lambda m: faults.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: faults.append(str(e)))
    page.on("request", lambda r: faults.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None)
    page.goto(path.as_uri())
    return page, faults
