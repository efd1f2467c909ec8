"""What the evaluator found of a model: frames per second, memory, costs by node, and what does not fit the NPU."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from knerex_jax.check import NodeCheck
from knerex_jax.compiler.cost import Estimate, estimate
from knerex_jax.performance.advice import Advice, advise
from knerex_jax.performance.nodes import NodeCost, node_costs
from knerex_jax.performance.subject import Subject
from knerex_jax.performance.totals import Totals, totals
from knerex_jax.targets.machine import Machine


@dataclass(frozen=True)
class Evaluation:
    """What an inference of one sample takes. Time on the CPU is not part of it.

    Attributes:
      model: its name.
      platform: "520" to "730".
      source: "onnx", "bie" or "nef": what was evaluated.
      widths: "input", "output", "datapath", "weight" -> "int8" and so on.
      fm_cut: how feature maps are divided.
      totals: of the whole inference.
      nodes: by entry of the backend, in order; their times add up to the whole.
      unsupported: nodes that nothing can run, with reasons, and those behind them; the estimate is of the rest.
      cpu_nodes: nodes that run on the processor -> why, as far as that is known.
      advice: the costliest nodes, and what would help.
    """

    model: str
    platform: str
    source: str
    widths: Mapping[str, str]
    fm_cut: str
    totals: Totals
    nodes: tuple[NodeCost, ...] = field(repr=False)
    unsupported: tuple[NodeCheck, ...]
    cpu_nodes: Mapping[str, str]
    advice: tuple[Advice, ...] = field(repr=False)
    cost: Estimate = field(repr=False, compare=False)

    @property
    def fps(self) -> float:
        """Inferences per second, NPU only; of the supported part where nodes are unsupported."""
        return self.totals.fps

    @property
    def time_ms(self) -> float:
        """Milliseconds of an inference, NPU only."""
        return self.totals.time_ms

    @property
    def supported(self) -> bool:
        """Whether every node runs somewhere."""
        return not self.unsupported

    @property
    def caveat(self) -> str:
        """What the frame rate leaves out; empty if nothing."""
        parts = []
        if self.cpu_nodes:
            count = len(self.cpu_nodes)
            parts.append(f"NPU only: {count} node{'s run' if count > 1 else ' runs'} on the CPU")
        if self.unsupported:
            parts.append(f"without {len(self.unsupported)} nodes that cannot run")
        return "; ".join(parts)

    @property
    def machine(self) -> Machine:
        """The figures behind the times."""
        return self.totals.machine

    def summary(self) -> dict[str, Any]:
        """The published summary fields, with ours."""
        return {
            "model": self.model,
            "platform": self.platform,
            **{f"{name} bitwidth": width for name, width in self.widths.items()},
            "fm_cut": self.fm_cut,
            **self.totals.summary(),
            "cpu_node": ", ".join(self.cpu_nodes) or "N/A",
            "comments": self.caveat,
        }

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data; a frame rate that is not finite is None."""
        summary = self.summary()
        if not self.totals.seconds:
            summary["fps"] = None
        return {
            "format": 1,
            "source": self.source,
            "supported": self.supported,
            "summary": summary,
            "unsupported": [vars(n) for n in self.unsupported],
            "cpu_nodes": dict(self.cpu_nodes),
            "nodes": [row for node in self.nodes for row in node.rows()],
            "advice": [a.to_json() for a in self.advice],
            "machine": self.machine.to_json(),
            "sources": {name: self.machine.sources.get(name, "assumed") for name in self.machine.to_json()},
        }


def evaluation_of(subject: Subject) -> Evaluation:
    """The evaluation of a compiled program."""
    machine = subject.config.machine
    cost = estimate(subject.program, machine)
    nodes = node_costs(subject.program, cost, machine, subject.origins)
    return Evaluation(
        model=subject.name,
        platform=subject.program.platform,
        source=subject.source,
        widths=subject.widths,
        fm_cut=subject.config.applied_cut,
        totals=totals(subject.program, cost, machine),
        nodes=nodes,
        unsupported=subject.unsupported,
        cpu_nodes=subject.cpu_nodes,
        advice=advise(nodes, machine, subject.program.platform),
        cost=cost,
    )
