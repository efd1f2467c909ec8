"""What an inference takes as a whole, in the published figures and with the identities between them."""

from dataclasses import dataclass, field
from typing import Any

from knerex_jax.compiler.cost import Estimate
from knerex_jax.compiler.layout import byte_size
from knerex_jax.npu.isa import NpuProgram
from knerex_jax.targets.machine import Machine


@dataclass(frozen=True)
class Totals:
    """One inference of one sample, on the NPU alone. GB and KB are decimal.

    Attributes:
      machine: the figures that the times rest on.
      seconds: units side by side.
      serial_seconds: computation and data movement one after the other ("no sync").
      running_seconds: of the main unit.
      products: multiplications that the arithmetic needs.
      read_bytes, written_bytes, weight_bytes: from and to DRAM (RV, WV, and what GETW loads, each time anew).
      memory: segment of DRAM -> bytes ("input", "output", "working", "weight").
      sram_peak: the highest byte on chip that is used, plus one.
      commands: of the program.
    """

    machine: Machine = field(repr=False)
    seconds: float
    serial_seconds: float
    running_seconds: float
    products: int
    read_bytes: int
    written_bytes: int
    weight_bytes: int
    memory: dict[str, int]
    sram_peak: int
    commands: int

    @property
    def time_ms(self) -> float:
        """Inference time (ITC)."""
        return self.seconds * 1e3

    @property
    def fps(self) -> float:
        """Inferences per second; infinite where the NPU does nothing."""
        return 1 / self.seconds if self.seconds else float("inf")

    @property
    def cycles(self) -> float:
        """Clock cycles of an inference."""
        return self.seconds * self.machine.megahertz * 1e6

    @property
    def theoretical_seconds(self) -> float:
        """All multiplications at the rate of the multipliers: what no program can go below."""
        return self.products / (self.machine.macs * self.machine.megahertz * 1e6)

    @property
    def mac_efficiency(self) -> float:
        """Share of the time that the multiplications need."""
        return self.theoretical_seconds / self.seconds if self.seconds else 0.0

    @property
    def idle_seconds(self) -> float:
        """The main unit waits."""
        return self.seconds - self.running_seconds

    @property
    def moved_bytes(self) -> int:
        """Data to and from DRAM, without weights."""
        return self.read_bytes + self.written_bytes

    @property
    def dram_traffic(self) -> int:
        """Data and weights."""
        return self.moved_bytes + self.weight_bytes

    @property
    def move_seconds(self) -> float:
        """Data movement at its bandwidths."""
        return 1e-9 * (self.read_bytes / self.machine.rdma + self.written_bytes / self.machine.wdma)

    @property
    def data_bandwidth(self) -> float:
        """Data over the whole time, GB/s."""
        return self._rate(self.moved_bytes)

    @property
    def weight_bandwidth(self) -> float:
        """Weights over the whole time, GB/s."""
        return self._rate(self.weight_bytes)

    @property
    def dram_bandwidth(self) -> float:
        """Both, GB/s."""
        return self.data_bandwidth + self.weight_bandwidth

    @property
    def dram_bytes(self) -> int:
        """DRAM that the model takes."""
        return sum(self.memory.values())

    def _rate(self, count: int) -> float:
        return count * 1e-9 / self.seconds if self.seconds else 0.0

    def summary(self) -> dict[str, Any]:
        """Under the published names where there is one; the rest with its unit in the name."""
        m = self.machine
        return {
            "fps": self.fps,
            "ITC(ms)": self.time_ms,
            "total cycles": self.cycles,
            "total time without sync(ms)": self.serial_seconds * 1e3,
            "RDMA bandwidth GB/s": m.rdma,
            "WDMA bandwidth GB/s": m.wdma,
            "GETW bandwidth GB/s": m.getw,
            "RV(Byte)": self.read_bytes,
            "WV(Byte)": self.written_bytes,
            "data move amount(GB)": self.moved_bytes * 1e-9,
            "data move time(ms)": self.move_seconds * 1e3,
            "average data bandwidth GB/s": self.data_bandwidth,
            "weight amount(KB)": self.weight_bytes * 1e-3,
            "average weight bandwidth GB/s": self.weight_bandwidth,
            "average DRAM bandwidth GB/s": self.dram_bandwidth,
            "total theoretical convolution time(ms)": self.theoretical_seconds * 1e3,
            "MAC efficiency": self.mac_efficiency,
            "MAC running time(ms)": self.running_seconds * 1e3,
            "MAC idle time(ms)": self.idle_seconds * 1e3,
            "multiplications": self.products,
            "Frequency (MHz)": m.megahertz,
            "MAC# (per cycle)": m.macs,
            "Batch size": 1,
            "peak SRAM(Byte)": self.sram_peak,
            "SRAM(Byte)": m.sram,
            "DRAM(Byte)": self.dram_bytes,
            **{f"DRAM {segment}(Byte)": size for segment, size in self.memory.items()},
            "commands": self.commands,
        }


def totals(program: NpuProgram, found: Estimate, machine: Machine) -> Totals:
    """Sums of a compiled program."""
    read, written, loaded = (sum(c.work.amounts[k] for c in found.costs) for k in (-3, -2, -1))
    sizes = dict(program.sizes)
    on_chip = [b.offset + byte_size(b, program.platform) for b in program.buffers if b.memory == "sram"]
    return Totals(
        machine=machine,
        seconds=found.seconds,
        serial_seconds=found.serial_seconds,
        running_seconds=sum(c.seconds for c in found.costs if c.engine == "cfunc"),
        products=sum(c.products for c in found.costs),
        read_bytes=int(read),
        written_bytes=int(written),
        weight_bytes=int(loaded),
        memory={name: sizes.get(name, 0) for name in ("input", "output", "working", "weight")},
        sram_peak=max(on_chip, default=0),
        commands=len(program.commands),
    )
