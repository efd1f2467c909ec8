"""What is evaluated: a compiled program, whatever file it comes from, and what is known of its nodes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from knerex_jax.artifacts.bie import MAGIC as BIE_MAGIC
from knerex_jax.artifacts.bie import Bie, load_bie
from knerex_jax.check import CheckReport, NodeCheck, check_read, read_supported
from knerex_jax.errors import ConfigError
from knerex_jax.flow import Ops
from knerex_jax.graph.ir import Model
from knerex_jax.nef.container import MAGIC as NEF_MAGIC
from knerex_jax.nef.container import load_nef, model_of
from knerex_jax.npu.isa import Compute, NpuProgram
from knerex_jax.npu_model import compile_bie
from knerex_jax.passes.pipeline import decompose_model
from knerex_jax.performance.nominal import nominal_plan
from knerex_jax.program.primitives import Mac
from knerex_jax.quantize.bitwidth import cpu_nodes
from knerex_jax.quantize.config import PTQConfig, make_config
from knerex_jax.quantize.planner import Planned
from knerex_jax.quantize.request import WIDTH_OF

COST_OPTIONS = (
    "datapath_bitwidth_mode", "weight_bitwidth_mode", "model_in_bitwidth_mode", "model_out_bitwidth_mode",
    "cpu_node_bitwidth_mode", "const_in_bitwidth_mode", "quan_config", "fm_cut", "optimize", "input_fmt",
    "weight_bandwidth", "dma_bandwidth", "ip_config", "input_shape",
)  # fmt: skip
"""Fields of `PTQConfig` that decide what an inference costs."""

_OF_A_BIE = ("fm_cut", "optimize", "input_fmt", "weight_bandwidth", "dma_bandwidth", "ip_config")
_OF_A_NEF = ("weight_bandwidth", "dma_bandwidth", "ip_config")


@dataclass(frozen=True)
class Subject:
    """A compiled program.

    Attributes:
      name: of the model.
      source: "onnx", "bie" or "nef".
      program: for the NPU.
      config: platform and figures of the machine.
      widths: "input", "output", "datapath", "weight" -> "int8" and so on; several where they are mixed.
      origins: node of the decomposed model -> nodes of the user's; empty for a nef.
      support: where every node of the user's model runs; None where there is no such model.
      planned: what was compiled, of a float model; its ranges are not real.
    """

    name: str
    source: str
    program: NpuProgram
    config: PTQConfig
    widths: Mapping[str, str]
    origins: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    support: CheckReport | None = None
    planned: Planned | None = None

    @property
    def unsupported(self) -> tuple[NodeCheck, ...]:
        """Nodes that nothing can run, and those that depend on them: left out of the program."""
        rows = self.support.nodes if self.support else ()
        return tuple(n for n in rows if n.where in ("unsupported", "unchecked"))

    @property
    def cpu_nodes(self) -> dict[str, str]:
        """Nodes that the NPU leaves to the processor -> why, as far as it is known."""
        host = [c.instruction for c in self.program.commands if isinstance(c, Compute) and c.engine == "host"]
        found = dict.fromkeys(n for i in host for n in (i.nodes or (i.name,)))
        why = {n.name: n.reason for n in self.support.nodes} if self.support else {}
        return {n: next((why[o] for o in self.origins.get(n, ()) if why.get(o)), "") for n in found}


def subject_of(
    path: str | Path, platform: str | None, options: Mapping[str, Any], *, model_id: int | None, key: bytes | None,
    ops: Ops,
) -> Subject:  # fmt: skip
    """Reads an ONNX, a bie or a nef; `evaluate` says what the arguments mean."""
    _refuse(options, COST_OPTIONS, "evaluate", "leave it out: it does not change what an inference costs")
    with _opened(path) as file:
        start = file.read(16)
    if start == BIE_MAGIC:
        _refuse(options, _OF_A_BIE, str(path), "a bie has its widths: evaluate the ONNX, or quantize again")
        return _of_bie(load_bie(path), platform, options, str(path))
    if start == NEF_MAGIC:
        _refuse(options, _OF_A_NEF, str(path), "a nef is compiled: evaluate the bie or the ONNX")
        model = model_of(load_nef(path, key=key), model_id, str(path))
        config = make_config(platform=_same(platform, model.program.platform, str(path)), **options)
        return Subject(model.name, "nef", model.program, config, widths_of(model.program))
    return subject_of_onnx(path, make_config(platform=platform or "720", **options), ops)


def subject_of_onnx(path: str | Path, config: PTQConfig, ops: Ops) -> Subject:
    """The part of a float model that can run, at the widths of a config, without calibration data.

    Raises:
      ConfigError: mixbw, which has to measure.
      ModelError: the file cannot be read.
    """
    if config.ranked:
        raise ConfigError(
            "mixbw chooses widths by what calibration data show", where="bitwidth_mode='mixbw'",
            fix="use run_ptq, whose report has the same estimate, or mix light or mix balance",
        )  # fmt: skip
    readable = read_supported(path, config.input_shape, ops)
    model = decompose_model(readable.bound, ops)
    support = check_read(readable, model, config.platform, ops)
    planned = nominal_plan(model, config, ops)
    header = {"cpu_nodes": list(cpu_nodes(model, planned.structure, config.target, ops))}
    program = _compiled(Bie(planned.program, planned.constants, planned.plan, header), config)
    origins = origins_of(planned.model)
    return Subject(readable.name, "onnx", program, config, widths_of(program), origins, support, planned)


def subject_of_compiled(name: str, program: NpuProgram, config: PTQConfig, model: Model) -> Subject:
    """A program that was just compiled from a decomposed model."""
    return Subject(name, "bie", program, config, widths_of(program), origins_of(model))


def origins_of(model: Model) -> dict[str, tuple[str, ...]]:
    """Node -> nodes of the user's model."""
    return {n.name: tuple(n.origin) for n in model.graph.nodes}


def _of_bie(bie: Bie, platform: str | None, options: Mapping[str, Any], where: str) -> Subject:
    config = make_config(platform=_same(platform, bie.program.platform, where), **options)
    program = _compiled(bie, config)
    origins = {n: tuple(o) for n, o in bie.header.get("origins", {}).items()}
    return Subject(bie.program.name, "bie", program, config, widths_of(program), origins)


def _compiled(bie: Bie, config: PTQConfig) -> NpuProgram:
    return compile_bie(bie, fm_cut=config.applied_cut, input_format=config.input_format, machine=config.machine).program


def widths_of(program: NpuProgram) -> dict[str, str]:
    """The widths that occur, by what they are of."""
    buffers = program.buffers
    computes = [c for c in program.commands if isinstance(c, Compute)]
    ends = {p.name for p in program.outputs}
    inside = [c for c in computes if ends.isdisjoint(c.instruction.outputs)] or computes
    inner = {b for c in inside for t in c.results if (b := buffers[t.buffer].bits)}
    weights = {c.instruction.weight_bits for c in computes if isinstance(c.instruction, Mac)}
    found = {
        "input": {buffers[p.buffer].bits for p in program.inputs} - {0},
        "output": {buffers[p.buffer].bits for p in program.outputs} - {0},
        "datapath": inner,
        "weight": weights,
    }
    return {name: " and ".join(WIDTH_OF[b] for b in sorted(bits)) or "none" for name, bits in found.items()}


def _same(asked: str | None, own: str, where: str) -> str:
    if asked is not None and str(asked) != own:
        raise ConfigError(f"the file is for platform {own}, not {asked}", where=where, fix="leave the platform out")
    return own


def _refuse(options: Mapping[str, Any], allowed: tuple[str, ...], where: str, fix: str) -> None:
    defaults = PTQConfig.__dataclass_fields__
    for name, value in options.items():
        if name not in allowed and name in defaults and value != defaults[name].default:
            raise ConfigError(f"{name} does not apply", where=where, fix=fix)


def _opened(path: str | Path) -> Any:
    try:
        return Path(path).open("rb")
    except OSError as e:
        raise ConfigError(f"cannot be read: {e.strerror}", where=str(path), fix="pass an ONNX, bie or nef") from e
