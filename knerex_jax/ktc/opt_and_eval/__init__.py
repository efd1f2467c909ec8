"""Optimizes a float model and evaluates the result: `python -m knerex_jax.ktc.opt_and_eval 720 model.onnx`."""

from dataclasses import dataclass
from pathlib import Path

from knerex_jax.errors import ConfigError
from knerex_jax.ktc.folders import output_folder
from knerex_jax.ktc.model_config import ModelConfig
from knerex_jax.ktc.notes import tell
from knerex_jax.prepare.optimize import optimize_onnx

_ID = 32769


@dataclass(frozen=True)
class OptAndEval:
    """What came of it.

    Attributes:
      optimized: path of the optimized model; None if it was only evaluated.
      report: the evaluation as text; None if it was only optimized.
      folder: of the evaluation's files; None likewise.
    """

    optimized: Path | None
    report: str | None
    folder: Path | None


def opt_and_eval(
    platform: str | int,
    path: str | Path,
    *,
    optimize_only: bool = False,
    evaluate_only: bool = False,
    optimized_path: str | Path | None = None,
    evaluate_dir: str | Path | None = None,
    deep_search: bool = False,
) -> OptAndEval:
    """Optimizes an ONNX to `*.opt.onnx`, then evaluates it; a bie is evaluated only.

    Args:
      platform: 520, 530, 630, 720 or 730.
      path: of the model.
      optimize_only: without the evaluation.
      evaluate_only: without the optimization.
      optimized_path: instead of `*.opt.onnx` beside the model.
      evaluate_dir: instead of /data1/kneron_flow.
      deep_search: searches tilings.

    Raises:
      ConfigError: nothing is left to do.
      KnerexError: the model cannot be read, or an option is not possible.
    """
    path = Path(path)
    is_bie = path.suffix == ".bie"
    if optimize_only and (evaluate_only or is_bie):
        fix = "leave out optimize_only (-o)" if is_bie else "give one of -o and -e, or neither"
        raise ConfigError("nothing is left to do", where="a bie" if is_bie else "-o and -e", fix=fix)
    optimized = None
    if not evaluate_only and not is_bie:
        optimized = Path(optimized_path or path.with_name(f"{path.stem}.opt.onnx"))
        tell(optimize_onnx(path, optimized).notes)
    if optimize_only:
        return OptAndEval(optimized, None, None)
    source = {"bie_path": path} if is_bie else {"onnx_path": optimized or path}
    folder = output_folder(evaluate_dir)
    tiling = "deep_search" if deep_search else "default"
    report = ModelConfig(_ID, "0001", platform, **source).evaluate(folder, compiler_tiling=tiling)
    return OptAndEval(optimized, report, folder)
