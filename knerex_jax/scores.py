"""Scores on labelled data, put into the report of a run."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from knerex_jax.api import PTQResult
from knerex_jax.artifacts.stages import write_report
from knerex_jax.report.html import render_report
from knerex_jax.report.score import with_score


def add_scores(result: PTQResult, scores: Mapping[str, Mapping[str, Any]]) -> PTQResult:
    """Writes the report again with scores of the float and of the fixed-point model, which it then shows first.

    Args:
      result: of `run_ptq`.
      scores: name -> {"float": score of the float model, "fixed": of the fixed-point model, "samples": how many they
        rest on (may be left out)}; larger is better. Those that were added before stay.

    Returns:
      The result with the new report.

    Raises:
      ConfigError: a score is not such a mapping.
      ArtifactError: the report cannot be written.
    """
    report = with_score(result.report, scores)
    write_report(report, render_report(report), result.paths["report_json"].parent)
    return replace(result, report=report)
