"""Writes docs/onnx_backend.md: what of the official ONNX backend suite does not pass, and what runs on the host."""

import os
import sys
import tempfile
from pathlib import Path

from knerex_jax.conformance import document, findings, official_cases


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ONNX_HOME"] = folder  # the runner unpacks the data of the light models there
        cases = official_cases()
        found = [finding for case in cases for finding in findings(case)]
    page = Path(__file__).parents[1] / "docs" / "onnx_backend.md"
    page.write_text(document(cases, found))
    print(f"{page}: {len(cases)} cases, {len({f.case for f in found if not f.subject})} do not pass")


if __name__ == "__main__":
    sys.exit(main())
