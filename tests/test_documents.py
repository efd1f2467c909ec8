"""README and docs: every code block runs and prints what the page shows; the site builds; nothing public is missing."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from documents import NOT_RUN, ROOT, Page, pages, quantized, workplace

import knerex_jax

EXPECTED_NOT_RUN = 18
RUN_ELSEWHERE = {"docs/custom_operators.md"}
"""tests/test_custom_operators.py runs it."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return quantized(tmp_path_factory.mktemp("finished"))


def run_pages() -> list[Path]:
    chosen = [p for p in pages() if str(p.relative_to(ROOT)) not in RUN_ELSEWHERE]
    return [p for p in chosen if Page(p).blocks]


@pytest.mark.parametrize("path", run_pages(), ids=lambda p: str(p.relative_to(ROOT)))
def test_code_blocks_run_and_print_what_is_shown(path, tmp_path, finished):
    page = Page(path)
    with workplace(tmp_path, finished):
        page.run()
    for shown in page.shown:
        assert shown.equal, f"line {shown.start + 1}:\n{shown.got}\nis not\n{shown.wanted}"
    assert all(len(reason) > 10 for reason in page.not_run)


def test_what_does_not_run_is_known():
    reasons = [b.content.splitlines()[0] for path in pages() for b in Page(path).blocks if NOT_RUN in b.content]
    assert len(reasons) == EXPECTED_NOT_RUN, reasons


def test_site_builds_without_warnings(tmp_path):
    """With the links of all pages, and the docstrings of everything public."""
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs", ".", str(tmp_path / "site")]
    done = subprocess.run([*build, "-d", str(tmp_path / "trees")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "index.html").is_file()
    options = (tmp_path / "site" / "docs" / "cli.html").read_text()
    assert all(f.name.replace("_", "-") in options for f in fields(knerex_jax.PTQConfig))


def test_reference_names_everything_public():
    page = (ROOT / "docs" / "api.md").read_text()
    named = set(re.findall(r"^\.\. auto\w+:: (\w+)$|^\.\. py:data:: (\w+)$", page, flags=re.MULTILINE))
    names = {a or b for a, b in named}
    assert names == set(knerex_jax.__all__)
