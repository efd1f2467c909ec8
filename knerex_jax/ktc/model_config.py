"""`ModelConfig`: a model with its id, version and platform, as the published interface has it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from knerex_jax.api import PTQResult, run_ptq
from knerex_jax.errors import ConfigError
from knerex_jax.files import write_atomic
from knerex_jax.ktc.folders import output_folder
from knerex_jax.ktc.notes import OURS, Translation, modern, published_names, tell, tell_one
from knerex_jax.performance.evaluation import Evaluation
from knerex_jax.performance.run import evaluate, write_evaluation
from knerex_jax.performance.text import evaluation_text
from knerex_jax.prepare.protos import save_proto
from knerex_jax.quantize.config import PERCENTAGE_16B, PTQConfig, make_config

_OLD_WIDTHS = "use datapath_bitwidth_mode and weight_bitwidth_mode"
OLD_TILING: dict[str, Translation] = {
    "fm_cut": ("use compiler_tiling", lambda v: {"compiler_tiling": v}),
    "hardware_cut_opt": (
        "use compiler_tiling='deep_search'", lambda v: {"compiler_tiling": "deep_search" if v else "default"}
    ),
}  # fmt: skip
OLD_ANALYSIS: dict[str, Translation] = OLD_TILING | {
    "output_bie": ("use output_dir, a folder; the bie is copied to this path", lambda v: {"output_bie": v}),
    "bitwidth_mode": (_OLD_WIDTHS, lambda v: {"datapath_bitwidth_mode": v, "weight_bitwidth_mode": v}),
    "outlier": ("use percentage", lambda v: {"percentage": v}),
    "skip_verify": ("use mode=1, or 2 to verify", lambda v: {"mode": 1 if v else 2}),
}
"""Arguments of `analysis` and `evaluate` that earlier releases had."""


_SECRET_FILES = {
    "radix_json_path": "run analysis, with quan_config for formats of your own",
    "compiler_config_path": "use compiler_tiling; figures of the machine go into ip_config of knerex_jax.evaluate",
}


@dataclass
class ModelConfig:
    """A model, as `compile` and the steps before it take it.

    Attributes:
      id: number of the model; above 32768 for one's own.
      version: hexadecimal, up to four digits.
      platform: 520, 530, 630, 720 or 730, as text or number.
      onnx_model: a loaded float model; this, onnx_path or bie_path.
      onnx_path: path of a float model.
      bie_path: path of a fixed-point model; `analysis` sets it, too.
      radix_json_path: not available: its format is not public.
      compiler_config_path: not available: its format is not public.
      debug: intermediate files are always kept, whatever this says.
      input_fmt: layout of all inputs (730 only); may be set later.
      result: ours: everything that `analysis` found.

    Raises:
      ConfigError: not exactly one model, or an option that is out of range or not available.
    """

    id: int
    version: str
    platform: str | int
    onnx_model: onnx.ModelProto | None = None
    onnx_path: str | Path | None = None
    bie_path: str | Path | None = None
    radix_json_path: str | Path | None = None
    compiler_config_path: str | Path | None = None
    debug: bool = False
    input_fmt: str | None = None
    result: PTQResult | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        sources = ("onnx_model", "onnx_path", "bie_path")
        given = [name for name in sources if getattr(self, name) is not None]
        if len(given) != 1:
            what = f"{len(given)} models" if given else "no model"
            where = f"ModelConfig({', '.join(given)})"
            raise ConfigError(what, where=where, fix="give exactly one of onnx_model, onnx_path and bie_path")
        for name, fix in _SECRET_FILES.items():
            if (path := getattr(self, name)) is not None:
                raise ConfigError("the format of this file is not public", where=f"{name}={str(path)!r}", fix=fix)
        self.platform = self.config().platform

    def config(self, **options: Any) -> PTQConfig:
        """Ours: the settings of `run_ptq` for this model.

        Args:
          **options: fields of `PTQConfig`.

        Raises:
          ConfigError: unknown, out of range or impossible on the platform; by published names.
        """
        with published_names():
            return make_config(
                platform=str(self.platform), model_id=self.id, model_version=self.version, input_fmt=self.input_fmt,
                **options,
            )  # fmt: skip

    def evaluate(
        self,
        output_dir: str | Path = "/data1/kneron_flow",
        datapath_bitwidth_mode: str = "int8",
        weight_bitwidth_mode: str = "int8",
        model_in_bitwidth_mode: str = "int8",
        model_out_bitwidth_mode: str = "int8",
        cpu_node_bitwidth_mode: str | None = None,
        weight_bandwidth: float | None = None,
        dma_bandwidth: float | None = None,
        compiler_tiling: str = "default",
        **old: Any,
    ) -> str:
        """Estimates speed and memory, and says which nodes cannot run; nothing is calibrated.

        Args:
          output_dir: gets the report, and `ip_evaluation_<platform>.json` and `.txt`.
          datapath_bitwidth_mode: as in `analysis`, as are the other widths.
          weight_bitwidth_mode: see there.
          model_in_bitwidth_mode: see there.
          model_out_bitwidth_mode: see there.
          cpu_node_bitwidth_mode: see there.
          weight_bandwidth: GB/s of loading weights, instead of the platform's.
          dma_bandwidth: GB/s of moving data, each way.
          compiler_tiling: "default" or "deep_search".
          **old: arguments of earlier releases.

        Returns:
          The report as text.

        Raises:
          KnerexError: the model cannot be read, or an option is not possible.
        """
        arguments = {k: v for k, v in locals().items() if k not in ("self", "output_dir", "old")}
        arguments |= modern(old, OLD_TILING, self.evaluate)
        folder = output_folder(output_dir)
        found = self._estimate(folder, self._options(arguments))
        write_evaluation(found, folder)
        text = evaluation_text(found)
        if found.unsupported:
            names = ", ".join(n.name for n in found.unsupported)
            tell_one("model", "all nodes", "without those that cannot run", names)
        return text

    def _estimate(self, folder: Path, options: dict[str, Any]) -> Evaluation:
        if self._is_float:
            config = self.config(p_onnx=self._file(folder), mode=0, p_output=folder, **options)
            tell(config.notes())
            found = run_ptq(config).evaluation
            assert found is not None, "mode 0 has nothing else"
            return found
        for name in [n for n in options if n.endswith("_mode")]:
            if (asked := options.pop(name)) not in (None, "int8"):
                tell_one(name, asked, "that of the bie", "it is quantized already")
        assert self.bie_path is not None, "one model is given"
        with published_names():
            return evaluate(self.bie_path, str(self.platform), **options)

    def analysis(
        self,
        input_mapping: dict[str, list[np.ndarray]],
        output_dir: str | Path = "/data1/kneron_flow",
        threads: int = 4,
        quantize_mode: str = "default",
        datapath_range_method: str = "percentage",
        percentage: float = 0.999,
        percentage_16b: float = PERCENTAGE_16B,
        percentile: float = 0.001,
        outlier_factor: float = 1.0,
        datapath_bitwidth_mode: str = "int8",
        weight_bitwidth_mode: str = "int8",
        model_in_bitwidth_mode: str = "int8",
        model_out_bitwidth_mode: str = "int8",
        cpu_node_bitwidth_mode: str | None = None,
        const_in_bitwidth_mode: str = "int16",
        flops_ratio: float = 0.2,
        compiler_tiling: str = "default",
        mode: int = 1,
        optimize: int = 0,
        quan_config: Any = None,
        export_dynasty_dump: bool = False,
        **old: Any,
    ) -> str | None:
        """Quantizes the model with calibration data.

        Args:
          input_mapping: input name -> list of arrays in the ONNX input's shape (NCHW, batch included), as many for
            every input.
          output_dir: folder for the bie, stage files and report.
          threads: that load calibration data.
          quantize_mode: "default" or "post_sigmoid".
          datapath_range_method: "percentage" or "mmse".
          percentage: share of |values| kept for 8-bit ranges.
          percentage_16b: the same for 16-bit ranges; at least `percentage`, else that is taken.
          percentile: mmse only: share of the largest |values| searched.
          outlier_factor: mmse only: weight of clipped values.
          datapath_bitwidth_mode: "int8", "int16", "mix light", "mix balance" or "mixbw".
          weight_bitwidth_mode: also "int4".
          model_in_bitwidth_mode: "int8" or "int16".
          model_out_bitwidth_mode: "int8" or "int16".
          cpu_node_bitwidth_mode: "int8" or "int16"; None as the data.
          const_in_bitwidth_mode: width of constant operands; int8 on 520.
          flops_ratio: mixbw only: share of the multiplications that may run at 16 bits.
          compiler_tiling: "default" or "deep_search".
          mode: 0 estimate only, 1 quantize, 2 also match one image bit for bit, 3 all images and layers.
          optimize: 0, or 1 to 4 for bias adjustment and search of tilings.
          quan_config: scale, radix, min, max, bitwidth by node.
          export_dynasty_dump: writes every tensor of the fixed-point run.
          **old: arguments of earlier releases.

        Returns:
          Path of the bie; None in mode 0.

        Raises:
          KnerexError: with what is wrong, where, and how to fix it.
        """
        # Everything else that was asked for, by its published name.
        arguments = {k: v for k, v in locals().items() if k not in ("self", "input_mapping", "output_dir", "old")}
        arguments |= modern(old, OLD_ANALYSIS, self.analysis)
        wanted = arguments.pop("output_bie", None)
        if not self._is_float:
            fix = "give onnx_path or onnx_model"
            raise ConfigError("a bie is quantized already", where=f"bie_path={self.bie_path!r}", fix=fix)
        folder = output_folder(Path(wanted).parent if wanted else output_dir)
        options = {"p_onnx": self._file(folder), "np_txt": input_mapping, "layout": "NCHW", "p_output": folder}
        config = self.config(**options, **self._options(arguments))
        tell(config.notes())
        with published_names():
            self.result = run_ptq(config)
        if "bie" not in self.result.paths:
            return None
        bie = self.result.paths["bie"]
        if wanted:
            target = folder / Path(wanted).name
            write_atomic(target, bie.read_bytes())
            bie = target
        self.bie_path = str(bie)
        return self.bie_path

    @property
    def _is_float(self) -> bool:
        return self.onnx_model is not None or self.onnx_path is not None

    def _file(self, folder: Path) -> Path:
        """The float model as a file; a loaded one is written into the folder."""
        return Path(self.onnx_path) if self.onnx_model is None else save_proto(self.onnx_model, folder / "input.onnx")

    def _options(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Published arguments as fields of `PTQConfig`; defaults that only apply where they can are left out."""
        options = {OURS.get(name, name): value for name, value in arguments.items()}
        if options.get("const_in_bitwidth_mode") == "int16":
            del options["const_in_bitwidth_mode"]
        if options.get("percentage_16b") == PERCENTAGE_16B:
            del options["percentage_16b"]
        return options
