"""What the user asked for: the published parameters under their published names, checked and made one spelling."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from knerex_jax.errors import ConfigError
from knerex_jax.quantize.note import Note
from knerex_jax.quantize.options import check_kinds, check_names, in_range, names_of, one_of, shapes_by_input, width
from knerex_jax.quantize.quan_config import read_quan_config
from knerex_jax.quantize.request import BITS, MIXES, WIDTH_OF, Mix, Side, WidthRequest, check_request, constant_bits
from knerex_jax.targets import TARGETS, Target
from knerex_jax.targets.machine import MACHINES, Machine, read_ip_config

PERCENTAGE_16B = 0.999999
"""The published default of percentage_16b."""

HEADROOM_16B = 2.0
"""Bits of headroom for 16-bit data by default (contract, section 1)."""

InputFormat = Literal["1W16C8B", "4W4C8B", "16W1C8B"]
"""Order of an input's bytes, whatever the width of its codes."""

INPUT_FORMATS = tuple(f"{name}{wide}" for name in get_args(InputFormat) for wide in ("", "HL"))
"""What input_fmt may say."""


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class PTQConfig:
    """One post-training-quantization run. Every field is also an option of the command line.

    The first 21 carry the published names, ranges and defaults; the rest are ours.

    Raises:
      ConfigError: a value is out of range, impossible on the platform, or not available yet.
    """

    p_onnx: str | Path | None = _option(None, "float ONNX model")
    np_txt: Any = _option(None, "calibration data: dict of lists of arrays, .npz, folder of .npy or images, iterator")
    platform: str = _option("720", "520, 530, 630, 720 or 730")
    optimize: int = _option(0, "0 plain quantization; 1 to 4 add bias adjustment and feature-map cut search")
    datapath_range_method: str = _option("percentage", "percentage or mmse")
    data_analysis_pct: float = _option(0.999, "share of |values| kept for 8-bit ranges, 0 to 1; 1.0 for detectors")
    data_analysis_threads: int = _option(4, "threads that decode and preprocess calibration data")
    datapath_bitwidth_mode: str = _option("int8", "int8, int16, mix light, mix balance or mixbw")
    weight_bitwidth_mode: str = _option("int8", "int4, int8, int16, mix light, mix balance or mixbw")
    model_in_bitwidth_mode: str = _option("int8", "int8 or int16")
    model_out_bitwidth_mode: str = _option("int8", "int8 or int16")
    percentile: float = _option(0.001, "mmse only: share of the largest |values| searched")
    outlier_factor: float = _option(1.0, "mmse only: weight of clipped values, 1.0 to 2.0 or more")
    quantize_mode: str = _option("default", "default or post_sigmoid")
    quan_config: Any = _option(None, "scale, radix, min, max, bitwidth by node: dict, JSON or YAML file, or JSON text")
    fm_cut: str = _option("default", "feature-map cut: default or deep_search")
    p_output: str | Path = _option("kneron_flow", "output folder")
    weight_bandwidth: float | None = _option(None, "GB/s of loading weights, instead of the platform's")
    dma_bandwidth: float | None = _option(None, "GB/s of moving data, each way, instead of the platform's")
    mode: int = _option(
        2,
        "0 estimate only; 1 quantize and compile; 2 also match one image bit for bit; 3 all images and layers"
        " (of data that can be read only once, the first 384)",
    )
    export_dynasty_dump: bool = _option(False, "write every tensor of a fixed-point run into <m>.dump.zip")
    dump_samples: int = _option(1, "calibration samples in the dump, from the first")
    percentage_16b: float | None = _option(
        None, "share of |values| kept for 16-bit ranges; default 0.999999, or data_analysis_pct where that is more"
    )
    cpu_node_bitwidth_mode: str | None = _option(
        None, "what nodes on the CPU make: int8 or int16; default datapath_bitwidth_mode"
    )
    const_in_bitwidth_mode: str | None = _option(None, "constant operands: int8 or int16; default int16, on 520 int8")
    counts: str | Path | None = _option(
        None, "count file, or folder of those of all parts (knerex count): np_txt is not calibrated on, only compared"
    )
    input_shape: Mapping[str, tuple[int, ...]] | None = _option(None, "shapes of dynamic inputs, name -> shape")
    layout: str | None = _option(None, "layout of the calibration arrays where it is ambiguous: NCHW or NHWC")
    preprocess: Any = _option(None, "preset or Preprocess for a folder of images")
    batch_size: int = _option(16, "samples per compiled step and device")
    devices: int | None = _option(None, "devices that calibration is spread over; default all of JAX's default kind")
    guard_bits: int | None = _option(
        None, "a channel's range is at least the layer's divided by 2**guard_bits; default 2, 4 or 0 by the widths"
    )

    headroom_16b: float | None = _option(
        None, "bits by which ranges of 16-bit data are wider than measured; default 2, searched by range_search"
    )
    output_headroom: float | None = _option(
        None, "share by which the outputs' ranges are wider than any calibration sample's; default 0, searched 0.0625"
    )
    sigmoid_outputs: Any = _option(
        None, "post_sigmoid only: the outputs that a sigmoid outside the model follows, as a,b; default all"
    )
    range_search: bool = _option(False, "choose range rule and guard_bits by the noise at the outputs")
    weight_rounding: str = _option("nearest", "nearest, or learned from the calibration data")
    flops_ratio: float = _option(0.2, "mixbw only: share of the multiplications that may run at 16 bits, 0 to 1")
    max_ms: float | None = _option(None, "mixbw only: estimated ms of an inference to stay within, not flops_ratio")
    max_mb: float | None = _option(None, "mixbw only: MB between DRAM and chip to stay within, not flops_ratio")
    input_fmt: str | None = _option(None, "730 only: layout of all inputs: 1W16C8B, 4W4C8B or 16W1C8B; HL at 16 bits")
    model_id: int = _option(32769, "number of the model in the nef; above 32768 for one's own models")
    model_version: str = _option("0001", "version of the model in the nef: up to four hexadecimal digits")
    ip_config: str | Path | None = _option(None, "JSON file with figures of the machine; see knerex evaluate")
    error_budget: bool = _option(False, "report what every node costs at the outputs, and which overrides would help")
    mixbw_debug: bool = _option(False, "mixbw only: write the predicted SNR of every candidate to data/ and weight/")

    def __post_init__(self) -> None:
        object.__setattr__(self, "platform", str(self.platform).lower().removeprefix("kl"))
        one_of("platform", self.platform, TARGETS)
        for name in ("datapath", "weight", "model_in", "model_out"):
            option = f"{name}_bitwidth_mode"
            value = str(getattr(self, option))
            object.__setattr__(self, option, width(option, value))
        for option in ("cpu_node_bitwidth_mode", "const_in_bitwidth_mode"):
            if (value := getattr(self, option)) is not None:
                object.__setattr__(self, option, width(option, str(value)))
        object.__setattr__(self, "model_version", str(self.model_version))
        object.__setattr__(self, "input_shape", shapes_by_input(self.input_shape))
        object.__setattr__(self, "sigmoid_outputs", names_of("sigmoid_outputs", self.sigmoid_outputs))
        check_kinds(self)
        in_range("optimize", self.optimize, 0, 4)
        in_range("mode", self.mode, 0, 3)
        in_range("data_analysis_pct", self.data_analysis_pct, 0, 1)
        if self.percentage_16b is not None:
            in_range("percentage_16b", self.percentage_16b, 0, 1)
        in_range("percentile", self.percentile, 0, 1)
        in_range("outlier_factor", self.outlier_factor, 1, None)
        in_range("flops_ratio", self.flops_ratio, 0, 1)
        in_range("data_analysis_threads", self.data_analysis_threads, 1, None)
        in_range("batch_size", self.batch_size, 1, None)
        if self.devices is not None:
            in_range("devices", self.devices, 1, None)
        in_range("dump_samples", self.dump_samples, 1, None)
        in_range("model_id", self.model_id, 1, 2**31 - 1)
        if not re.fullmatch(r"[0-9a-fA-F]{1,4}", self.model_version):
            raise ConfigError(
                "the version is not hexadecimal, or longer than four digits",
                where=f"model_version={self.model_version!r}", fix="write it like '0001'",
            )  # fmt: skip
        if self.output_headroom is not None:
            in_range("output_headroom", self.output_headroom, 0, 1)
        if self.headroom_16b is not None:
            in_range("headroom_16b", self.headroom_16b, 0, 8)
        if self.guard_bits is not None:
            in_range("guard_bits", self.guard_bits, 0, 15)
        for name in ("weight_bandwidth", "dma_bandwidth", "max_ms", "max_mb"):
            if (value := getattr(self, name)) is not None:
                in_range(name, value, 1e-6, None)
        if self.wide_pct < self.data_analysis_pct:
            raise ConfigError(
                "16-bit ranges may not be cut more than 8-bit ones",
                where=f"percentage_16b={self.percentage_16b} < data_analysis_pct={self.data_analysis_pct}",
                fix="raise percentage_16b (default 0.999999) or lower data_analysis_pct",
            )
        object.__setattr__(self, "quan_config", read_quan_config(self.quan_config))
        self._check_mixes()
        check_request(self.widths, self.target)
        self._refuse_announced()

    def _refuse_announced(self) -> None:
        one_of("datapath_range_method", self.datapath_range_method, ("percentage", "mmse"))
        one_of("quantize_mode", self.quantize_mode, ("default", "post_sigmoid"))
        if self.fm_cut == "performance":
            raise ConfigError(
                "this feature-map cut is announced by the maker, and not available", where="fm_cut='performance'",
                fix="use default or deep_search",
            )  # fmt: skip
        one_of("fm_cut", self.fm_cut, ("default", "deep_search"))
        if self.input_fmt is not None:
            one_of("input_fmt", self.input_fmt, INPUT_FORMATS)
        one_of("weight_rounding", self.weight_rounding, ("nearest", "learned"))

    def _check_mixes(self) -> None:
        """Mixed widths need a platform with 16 bits; mixbw ranks one side against the other at 16 bits, or both."""
        if self.max_ms is not None and self.max_mb is not None:
            raise ConfigError("two budgets", where="max_ms and max_mb", fix="give one of them")
        modes = self.datapath_bitwidth_mode, self.weight_bitwidth_mode
        asked = [m for m in modes if m in MIXES]
        if asked and 15 not in self.target.data_bits:
            raise ConfigError(
                f"platform {self.platform} has no 16 bits to mix", where=f"bit width mode {asked[0]!r}",
                fix="use int8, or another platform",
            )  # fmt: skip
        if "mixbw" in modes and not {"mixbw", "int16"}.issuperset(modes):
            raise ConfigError(
                "mixbw goes with int16 or mixbw on the other side",
                where=f"datapath_bitwidth_mode={modes[0]!r}, weight_bitwidth_mode={modes[1]!r}",
                fix="use (mixbw, int16), (int16, mixbw) or (mixbw, mixbw)",
            )

    @property
    def mixes(self) -> dict[Side, Mix]:
        """The mixed modes that were asked for: "data", "weight" -> mode."""
        modes: dict[Side, str] = {"data": self.datapath_bitwidth_mode, "weight": self.weight_bitwidth_mode}
        return {side: mode for side, mode in modes.items() if mode in MIXES}

    @property
    def ranked(self) -> tuple[Side, ...]:
        """The sides whose widths mixbw chooses; with any, the model's boundary and the CPU have 16 bits."""
        return tuple(side for side, mode in self.mixes.items() if mode == "mixbw")

    @property
    def unranked(self) -> "PTQConfig":
        """The same with 16 bits wherever mixbw chooses: what can be planned before it has measured."""
        if not self.ranked:
            return self
        modes = ("datapath_bitwidth_mode", "weight_bitwidth_mode")
        return replace(self, **dict.fromkeys((m for m in modes if getattr(self, m) == "mixbw"), "int16"))

    @property
    def learns(self) -> bool:
        """Whether weights or biases are to be learned from the calibration data."""
        return self.weight_rounding == "learned" or self.optimize > 0

    @property
    def bias_mode(self) -> Literal["parallel", "sequential"]:
        """How biases are adjusted where `optimize` is not 0."""
        return "parallel" if self.optimize <= 2 else "sequential"

    @property
    def applied_cut(self) -> Literal["default", "deep_search"]:
        """fm_cut as it applies: optimize 2 and 4 imply the search, and 520 never searches."""
        searches = self.fm_cut == "deep_search" or self.optimize in (2, 4)
        return "deep_search" if searches and self.platform != "520" else "default"

    @property
    def input_format(self) -> InputFormat | None:
        """input_fmt as it applies, without the suffix for 16 bits."""
        if not self.input_fmt or self.platform != "730":
            return None
        return cast(InputFormat, self.input_fmt.removesuffix("HL"))

    @property
    def wide_pct(self) -> float:
        """percentage_16b as it applies."""
        return max(PERCENTAGE_16B, self.data_analysis_pct) if self.percentage_16b is None else self.percentage_16b

    @property
    def guard(self) -> int:
        """guard_bits as they apply."""
        if self.guard_bits is not None:
            return self.guard_bits
        # A small channel's own radix starves the weights behind it. 15-bit weights can afford that, 8-bit ones cannot;
        # 15-bit data do without it, 8-bit data need it (experiments/mixed_precision).
        if self.datapath_bitwidth_mode != "int16":
            return 2
        return 4 if self.weight_bitwidth_mode == "int16" else 0

    @property
    def wide_headroom(self) -> float:
        """headroom_16b as it applies."""
        return HEADROOM_16B if self.headroom_16b is None else self.headroom_16b

    @property
    def headroom(self) -> float:
        """output_headroom as it applies."""
        if self.output_headroom is not None:
            return self.output_headroom
        # The largest output of all data is larger than that of a few calibration samples, and it is the one that
        # decides: 1/16 costs half a decibel of an 8-bit output's own rounding and saves more than that (A9: 1.1 dB).
        return 0.0625 if self.range_search else 0.0

    @property
    def target(self) -> Target:
        """The platform's arithmetic."""
        return TARGETS[self.platform]

    @property
    def machine(self) -> Machine:
        """The platform's memories and rates, with what `ip_config` and the bandwidths say instead.

        Raises:
          ConfigError: the ip_config cannot be read, or has no sense.
        """
        machine = MACHINES[self.platform]
        if self.ip_config is not None:
            machine = read_ip_config(self.ip_config, machine)
        if self.dma_bandwidth is not None:
            machine = machine.changed(dict.fromkeys(("rdma", "wdma"), self.dma_bandwidth), "dma_bandwidth")
        if self.weight_bandwidth is not None:
            machine = machine.changed({"getw": self.weight_bandwidth}, "weight_bandwidth")
        return machine

    @property
    def widths(self) -> WidthRequest:
        """The requested widths in significant bits; of a mixed mode those that most of the model gets."""
        applied = self._applied_widths
        return WidthRequest(
            data=BITS[_UNMIXED.get(self.datapath_bitwidth_mode, self.datapath_bitwidth_mode)],
            weights=BITS[_UNMIXED.get(self.weight_bitwidth_mode, self.weight_bitwidth_mode)],
            model_in=BITS[applied["model_in_bitwidth_mode"]],
            model_out=BITS[applied["model_out_bitwidth_mode"]],
            constants=BITS[self.const_in_bitwidth_mode or "int16"],
            cpu=BITS[applied["cpu_node_bitwidth_mode"]],
        )

    @property
    def _applied_widths(self) -> dict[str, str]:
        """The modes of the model's boundary and of the CPU as they apply."""
        follows = _UNMIXED.get(self.datapath_bitwidth_mode, self.datapath_bitwidth_mode)
        asked = {
            "model_in_bitwidth_mode": self.model_in_bitwidth_mode,
            "model_out_bitwidth_mode": self.model_out_bitwidth_mode,
            "cpu_node_bitwidth_mode": self.cpu_node_bitwidth_mode or follows,
        }
        return dict.fromkeys(asked, "int16") if self.ranked else asked

    def applied(self) -> dict[str, Any]:
        """`to_json` with what the options come to."""
        return self.to_json() | {
            "fm_cut": self.applied_cut,
            **self._applied_widths,
            "const_in_bitwidth_mode": self._const_width,
            "percentage_16b": self.wide_pct,
            "guard_bits": self.guard,
            "headroom_16b": self.wide_headroom,
            "output_headroom": self.headroom,
        }

    @property
    def _const_width(self) -> str:
        return WIDTH_OF[constant_bits(self.widths, self.target)]

    def notes(self) -> tuple[Note, ...]:
        """Requests that are not applied as asked, apart from what the plan itself finds out."""
        found = []
        constants = self._const_width
        if self.const_in_bitwidth_mode not in (None, constants):
            why = f"platform {self.platform} has no {self.const_in_bitwidth_mode}"
            found.append(Note("const_in_bitwidth_mode", str(self.const_in_bitwidth_mode), constants, why))
        for option, applied in self._applied_widths.items():
            if getattr(self, option) not in (None, applied):
                found.append(Note(option, getattr(self, option), applied, "mixbw keeps it at 16 bits"))
        if self.platform == "520" and self.fm_cut == "deep_search":
            found.append(Note("fm_cut", self.fm_cut, "default", "platform 520 always has the default cut"))
        if self.platform == "520" and self.optimize in (2, 4):
            why = "platform 520 always has the default feature-map cut"
            found.append(Note("optimize", str(self.optimize), str(self.optimize - 1), why))
        if self.input_fmt is not None and self.platform != "730":
            why = f"platform {self.platform} has no choice of input layouts"
            found.append(Note("input_fmt", self.input_fmt, "the usual one", why))
        if self.export_dynasty_dump and self.mode == 0:
            found.append(Note("export_dynasty_dump", "True", "no dump", "mode 0 estimates, it does not quantize"))
        if self.dump_samples > 1 and not self.export_dynasty_dump:
            found.append(Note("dump_samples", str(self.dump_samples), "unused", "only export_dynasty_dump reads it"))
        for name in ("max_ms", "max_mb"):
            if getattr(self, name) is not None and not self.ranked:
                found.append(Note(name, f"{getattr(self, name):g}", "unused", "only mixbw has a budget"))
        if self.flops_ratio != type(self).flops_ratio and not self.ranked:
            found.append(Note("flops_ratio", f"{self.flops_ratio:g}", "unused", "only mixbw has a budget"))
        if self.mixbw_debug and not self.ranked:
            found.append(Note("mixbw_debug", "True", "unused", "only mixbw tries candidates"))
        if self.sigmoid_outputs and self.quantize_mode != "post_sigmoid":
            why = "only quantize_mode post_sigmoid reads it"
            found.append(Note("sigmoid_outputs", ", ".join(self.sigmoid_outputs), "unused", why))
        if self.devices is not None and (self.mode == 0 or self.counts is not None):
            why = "mode 0 does not calibrate" if self.mode == 0 else "the calibration was counted before"
            found.append(Note("devices", str(self.devices), "unused", why))
        for name in ("percentile", "outlier_factor"):
            default = type(self).__dataclass_fields__[name].default
            if self.datapath_range_method != "mmse" and getattr(self, name) != default:
                found.append(Note(name, str(getattr(self, name)), "unused", "only the mmse range method reads it"))
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Plain data; calibration data and other objects by their kind only."""
        return {
            k: v if isinstance(v, str | int | float | bool | tuple | None) or k == "quan_config" else _describe(v)
            for k, v in asdict_shallow(self).items()
        }


_UNMIXED = {"mix light": "int8", "mix balance": "int16", "mixbw": "int16"}


def asdict_shallow(config: PTQConfig) -> dict[str, Any]:
    """Field name -> value, without copying calibration data."""
    return {f.name: getattr(config, f.name) for f in fields(config)}


def known_options() -> list[str]:
    """The names of all options."""
    return [f.name for f in fields(PTQConfig)]


def make_config(**options: Any) -> PTQConfig:
    """A config from keywords; an unknown one is an error with a suggestion."""
    check_names(options, known_options(), where="PTQConfig")
    return PTQConfig(**options)


def _describe(value: Any) -> str:
    return str(value) if isinstance(value, Path) else f"<{type(value).__name__}>"
