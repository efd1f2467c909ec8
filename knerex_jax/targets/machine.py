"""What the compiler and the estimate know of a machine; figures are the reference's where it has them."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One platform's memories and rates.

    Attributes:
      sram: bytes on chip.
      macs: 8-bit multiplications per cycle.
      megahertz: clock.
      rdma, wdma, getw: GB/s of reading, writing and loading weights.
      assumed: names of the fields above that no public source states.
    """

    sram: int
    macs: int
    megahertz: float
    rdma: float
    wdma: float
    getw: float
    assumed: tuple[str, ...] = ()


MACHINES = {
    "520": Machine(
        sram=524_288, macs=576, megahertz=300.0, rdma=0.8, wdma=0.8, getw=0.8, assumed=("macs", "megahertz")
    ),
    "530": Machine(sram=524_288, macs=512, megahertz=500.0, rdma=8.0, wdma=8.0, getw=8.0, assumed=("sram",)),
    "630": Machine(
        sram=524_288, macs=512, megahertz=500.0, rdma=4.0, wdma=4.0, getw=4.0,
        assumed=("sram", "macs", "megahertz", "rdma", "wdma", "getw"),
    ),
    "720": Machine(
        sram=1_048_576, macs=1024, megahertz=700.0, rdma=4.0, wdma=4.0, getw=4.0,
        assumed=("sram", "macs", "rdma", "wdma", "getw"),
    ),
    "730": Machine(
        sram=1_048_576, macs=2048, megahertz=900.0, rdma=8.0, wdma=8.0, getw=8.0,
        assumed=("sram", "macs", "rdma", "wdma", "getw"),
    ),
}  # fmt: skip
"""Platform -> machine. Rates that are assumed await the fit to the published frame rates."""
