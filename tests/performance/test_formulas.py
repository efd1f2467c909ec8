"""Every formula of the cost model on commands whose amounts and times are worked out by hand."""

from dataclasses import replace

import pytest

from knerex_jax.compiler.cost import CommandCost, cost, estimate, prices
from knerex_jax.compiler.work import AMOUNTS, work_of
from knerex_jax.npu.isa import Buffer, Compute, Constant, Dma, Lifetime, Load, NpuProgram, Tile
from knerex_jax.program.primitives import Align, Interp, Mac, MatMul, MaxPool, Move, Mul, PoolSum, Table, Window
from knerex_jax.targets.machine import MACHINES

ROUND = replace(
    MACHINES["720"], megahertz=1000.0, macs=512.0, rdma=1.0, wdma=2.0, getw=4.0, block=1, sustained=0.8, pointwise=1.5,
    depthwise=64.0, lanes=16.0, functions=4.0, pool=8.0, move=32.0, start=100.0, exposed=0.25,
)  # fmt: skip
"""1 ns a cycle, so that times in ns are cycles."""


def on_chip(*shape: int, bits: int = 8, format: str = "1W16C8B") -> Buffer:
    return Buffer("sram", 0, format if bits == 8 else f"{format}HL", shape, None, bits)


def in_dram(*shape: int, bits: int = 8, format: str = "1W16C8B") -> Buffer:
    return Buffer("working", 0, format if bits == 8 else f"{format}HL", shape, None, bits)


def everything(buffers: list[Buffer], number: int) -> Tile:
    return Tile(number, (0,) * len(buffers[number].shape), buffers[number].shape)


def window(kernel: int, stride: int = 1) -> Window:
    return Window((kernel, kernel), (stride, stride), (1, 1), ((0, 0), (0, 0)))


def mac(weight: tuple[int, ...], kind: str = "conv", x_bits: int = 8, weight_bits: int = 8, group: int = 1) -> Mac:
    return Mac(
        name="m", inputs=("x",), output="y", nodes=("m",), bits=8, axis=1, kind=kind, group=group,
        window=window(weight[-1]) if kind != "dense" else None, x_bits=x_bits, weight_bits=weight_bits, psum_bits=32,
        post_multiplier=True,
    )  # fmt: skip


def weight_of(shape: tuple[int, ...], memory: str = "sram", dtype: str = "int8") -> Constant:
    return Constant("weight", memory, 0, dtype, shape)


def spent(
    instruction, x: Buffer, y: Buffer, constants: tuple[Constant, ...] = (), engine: str = "cfunc"
) -> CommandCost:
    buffers = [x, y]
    tiles = everything(buffers, 0), everything(buffers, 1)
    return cost(Compute(engine, instruction, (tiles[0],), (tiles[1],), constants), buffers, ROUND)


def amounts(found: CommandCost) -> dict[str, float]:
    return {name: a for name, a in zip(AMOUNTS, found.work.amounts, strict=True) if a}


def test_a_convolution_fills_whole_granules():
    """20 input channels take 32, 10 outputs 16, 6 columns 8: 5 rows x 8 x 9 taps x 32 x 16 products."""
    found = spent(mac((10, 20, 3, 3)), on_chip(1, 20, 7, 8), on_chip(1, 10, 5, 6), (weight_of((10, 20, 3, 3)),))
    assert amounts(found) == {"commands": 1, "kernels": 5 * 8 * 9 * 32 * 16}
    assert found.seconds == pytest.approx((100 + 5 * 8 * 9 * 32 * 16 / (0.8 * 512)) * 1e-9, rel=1e-12)
    assert found.products == 10 * 5 * 6 * 20 * 9


def test_up_to_four_channels_have_a_layout_of_their_own():
    found = spent(mac((16, 3, 3, 3)), on_chip(1, 3, 10, 10), on_chip(1, 16, 8, 8), (weight_of((16, 3, 3, 3)),))
    assert amounts(found)["kernels"] == 8 * 8 * 9 * 4 * 16


def test_kernels_are_rounded_up_to_blocks():
    buffers = [on_chip(1, 16, 8, 8), on_chip(1, 8, 4, 4)]
    command = Compute(
        "cfunc", mac((8, 16, 5, 5)), (everything(buffers, 0),), (everything(buffers, 1),), (weight_of((8, 16, 5, 5)),)
    )  # fmt: skip
    by_block = [work_of(command, buffers, block).amounts[AMOUNTS.index("kernels")] for block in (1, 3)]
    assert by_block == [4 * 4 * 25 * 16 * 8, 4 * 4 * 36 * 16 * 8]


def test_one_by_one_convolutions_have_their_own_price():
    found = spent(mac((8, 16, 1, 1)), on_chip(1, 16, 4, 4), on_chip(1, 8, 4, 4), (weight_of((8, 16, 1, 1)),))
    assert amounts(found) == {"commands": 1, "pointwise": 4 * 4 * 16 * 8}
    assert found.seconds == pytest.approx((100 + 1.5 * 4 * 4 * 16 * 8 / (0.8 * 512)) * 1e-9, rel=1e-12)


def test_depthwise_convolutions_have_their_own_rate():
    found = spent(mac((20, 1, 3, 3), group=20), on_chip(1, 20, 6, 6), on_chip(1, 20, 4, 4), (weight_of((20, 1, 3, 3)),))
    assert amounts(found) == {"commands": 1, "depthwise": 4 * 4 * 9 * 32}
    assert found.seconds == pytest.approx((100 + 4 * 4 * 9 * 32 / 64) * 1e-9, rel=1e-12)
    assert found.products == 20 * 4 * 4 * 9


@pytest.mark.parametrize(
    ("x_bits", "weight_bits", "planes"), [(8, 4, 0.5), (8, 8, 1), (15, 8, 2), (8, 15, 2), (15, 15, 4), (15, 4, 1)]
)
def test_wide_operands_cost_their_planes(x_bits, weight_bits, planes):
    made = mac((8, 16, 3, 3), x_bits=x_bits, weight_bits=weight_bits)
    found = spent(made, on_chip(1, 16, 6, 6), on_chip(1, 8, 4, 4), (weight_of((8, 16, 3, 3)),))
    assert amounts(found)["kernels"] == planes * 4 * 4 * 9 * 16 * 8


def test_a_dense_layer_is_a_row_of_products():
    buffers = [Buffer("sram", 0, "1W16C8B", (1, 40), None, 8), Buffer("sram", 0, "1W16C8B", (1, 10), None, 8)]
    command = Compute(
        "cfunc", mac((10, 40), "dense"), (everything(buffers, 0),), (everything(buffers, 1),), (weight_of((10, 40)),)
    )  # fmt: skip
    found = cost(command, buffers, ROUND)
    assert amounts(found) == {"commands": 1, "pointwise": 48 * 16}
    assert found.products == 400


def test_a_product_of_activations_with_15_bits_takes_four_planes():
    instruction = MatMul(name="m", inputs=("a", "b"), output="y", nodes=("m",), bits=15, x_bits=(15, 15))
    shapes = [(1, 2, 5, 20), (1, 2, 20, 9), (1, 2, 5, 9)]
    buffers = [Buffer("sram", 0, "1W16C8BHL", s, None, 15) for s in shapes]
    a, b, y = (everything(buffers, n) for n in range(3))
    found = cost(Compute("cfunc", instruction, (a, b), (y,)), buffers, ROUND)
    assert amounts(found) == {"commands": 1, "pointwise": 4 * 10 * 32 * 16}
    assert found.products == 2 * 5 * 9 * 20


def test_elements_take_the_lanes():
    found = spent(
        Align(
            name="a", inputs=("x",), output="y", nodes=("a",), bits=8, axis=1, op="add", signs=(1,), free=True,
            x_bits=(8,), psum_bits=32,
        ),
        on_chip(1, 16, 4, 5), on_chip(1, 16, 4, 5),
    )  # fmt: skip
    assert amounts(found) == {"commands": 1, "elements": 320}
    assert found.seconds == pytest.approx((100 + 320 / 16) * 1e-9, rel=1e-12)


@pytest.mark.parametrize("kind", [Table, Mul])
def test_tables_and_products_have_a_rate_of_their_own(kind):
    x_bits = (8, 8) if kind is Mul else 8
    made = kind(name="f", inputs=("x",), output="y", nodes=("f",), bits=8, axis=1, x_bits=x_bits)
    found = spent(made, on_chip(1, 16, 4, 5), on_chip(1, 16, 4, 5))
    assert amounts(found) == {"commands": 1, "functions": 320}
    assert found.seconds == pytest.approx((100 + 320 / 4) * 1e-9, rel=1e-12)


def test_interpolation_takes_its_taps():
    instruction = Interp(name="i", inputs=("x",), output="y", nodes=("i",), bits=8, axis=1, axes=(2, 3), x_bits=8)
    weights = tuple(Constant(f"weight{k}", "sram", 0, "int16", (8, 2)) for k in range(2))
    found = spent(instruction, on_chip(1, 16, 4, 4), on_chip(1, 16, 8, 8), weights)
    assert amounts(found) == {"commands": 1, "elements": 16 * 8 * 8 * 4}


@pytest.mark.parametrize("kind", [MaxPool, PoolSum])
def test_pooling_takes_what_lies_under_its_windows(kind):
    made = kind(name="p", inputs=("x",), output="y", nodes=("p",), bits=8, axis=1, window=window(3, 2), x_bits=8)
    found = spent(made, on_chip(1, 16, 9, 9), on_chip(1, 16, 4, 4), engine="pfunc")
    assert amounts(found) == {"commands": 1, "pooled": 16 * 4 * 4 * 9}
    assert found.engine == "pfunc" and found.seconds == pytest.approx((100 + 16 * 16 * 9 / 8) * 1e-9, rel=1e-12)


def test_transfers_move_whole_entries():
    buffers = [in_dram(1, 20, 3, 5), on_chip(1, 20, 3, 5)]
    dram, chip = (everything(buffers, n) for n in range(2))
    there, back = Dma(dram, chip), Dma(chip, dram)
    read, written = cost(there, buffers, ROUND), cost(back, buffers, ROUND)
    size = 32 * 3 * 5
    assert (read.engine, amounts(read)) == ("rdma", {"commands": 1, "read": size})
    assert (written.engine, amounts(written)) == ("wdma", {"commands": 1, "written": size})
    assert read.seconds == pytest.approx((100 + size / 1.0) * 1e-9, rel=1e-12)
    assert written.seconds == pytest.approx((100 + size / 2.0) * 1e-9, rel=1e-12)


@pytest.mark.parametrize(
    ("format", "bits", "size"),
    [("1W16C8B", 8, 16 * 4 * 6), ("16W1C8B", 8, 3 * 4 * 16), ("4W4C8B", 8, 4 * 4 * 8), ("1W16C8B", 15, 2 * 16 * 4 * 6)],
)
def test_bytes_of_every_layout(format, bits, size):
    buffers = [in_dram(1, 3, 4, 6, bits=bits, format=format), on_chip(1, 3, 4, 6, bits=bits, format=format)]
    assert cost(Dma(everything(buffers, 0), everything(buffers, 1)), buffers, ROUND).moved == size


def test_weights_are_loaded_in_whole_entries_or_streamed():
    load = cost(Load(0, 0, 1000, 0), [Buffer("sram", 0, "RAW", (1000,), None, 0, "uint8")], ROUND)
    assert (load.engine, amounts(load)) == ("getw", {"commands": 1, "loaded": 1000})
    assert load.seconds == pytest.approx((100 + 1000 / 4.0) * 1e-9, rel=1e-12)
    constants = (weight_of((8, 16, 1, 1), "weight"), Constant("bias", "weight", 0, "int32", (7,)))
    streamed = spent(mac((8, 16, 1, 1)), on_chip(1, 16, 4, 4), on_chip(1, 8, 4, 4), constants)
    assert amounts(streamed)["loaded"] == 128 + 32  # 28 bytes of bias take two entries
    packed = (weight_of((8, 16, 1, 1), "weight", "int4"),)
    four = spent(mac((8, 16, 1, 1), weight_bits=4), on_chip(1, 16, 4, 4), on_chip(1, 8, 4, 4), packed)
    assert amounts(four)["loaded"] == 64


def test_a_move_in_dram_is_read_written_and_rearranged():
    instruction = Move(
        name="v", inputs=("x",), output="y", nodes=("v",), bits=8, axis=1, kind="transpose", args=((0, 1, 3, 2),),
        x_bits=(8,),
    )  # fmt: skip
    found = spent(instruction, in_dram(1, 16, 4, 6), in_dram(1, 16, 6, 4), engine="pfunc")
    size = 16 * 4 * 6
    assert amounts(found) == {"commands": 1, "rearranged": size, "read": size, "written": size}
    assert found.seconds == pytest.approx((100 + size / 32 + size / 1 + size / 2) * 1e-9, rel=1e-12)


def test_the_host_costs_nothing():
    found = spent(mac((8, 16, 1, 1)), in_dram(1, 16, 4, 4), in_dram(1, 8, 4, 4), engine="host")
    assert found.seconds == 0 and not amounts(found)


def program(commands, buffers) -> NpuProgram:
    return NpuProgram(
        arith_version=1, name="n", platform="720", inputs=(), outputs=(), buffers=tuple(buffers),
        lifetimes=tuple(Lifetime(0, len(commands)) for _ in buffers), commands=tuple(commands), tensors=(), sizes=(),
    )  # fmt: skip


def test_units_side_by_side_wait_for_data_and_a_share_is_exposed():
    """Two parts, each read, pooled and written; the second one's reading runs beside the first one's pooling."""
    whole = [in_dram(1, 16, 8, 4), in_dram(1, 16, 8, 4)]
    parts = [Buffer("sram", 1024 * k, "1W16C8B", (1, 16, 4, 4), None, 8) for k in range(4)]
    buffers = [*whole, *parts]  # 2, 3: what is read; 4, 5: what is made

    def half(number: int, k: int) -> Tile:
        return Tile(number, (0, 0, 4 * k, 0), (1, 16, 4 * k + 4, 4))

    pool = MaxPool(name="p", inputs=("x",), output="y", nodes=("p",), bits=8, axis=1, window=window(1), x_bits=8)
    reads = [Dma(half(0, k), everything(buffers, 2 + k)) for k in range(2)]
    pools = [Compute("pfunc", pool, (everything(buffers, 2 + k),), (everything(buffers, 4 + k),)) for k in range(2)]
    writes = [Dma(everything(buffers, 4 + k), half(1, k)) for k in range(2)]
    found = estimate(program([*reads, pools[0], pools[1], *writes], buffers), ROUND)
    read, pooled, write = 100 + 256 / 1, 100 + 256 / 8, 100 + 256 / 2
    ends = [read, 2 * read, read + pooled, 2 * read + pooled, read + pooled + write, 2 * read + pooled + write]
    assert [f * 1e9 for f in found.finish] == pytest.approx(ends, rel=1e-12)
    serial = 2 * (read + pooled + write)
    assert found.serial_seconds * 1e9 == pytest.approx(serial, rel=1e-12)
    assert found.seconds * 1e9 == pytest.approx(ends[-1] + 0.25 * (serial - ends[-1]), rel=1e-12)


def test_every_amount_has_a_price():
    assert len(prices(ROUND)) == len(AMOUNTS) and all(p > 0 for p in prices(ROUND))
