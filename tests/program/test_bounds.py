"""Bounds: hand-worked cases, the overflow proof, and the join over plans."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "emulator"))
from instruction_cases import Build, MaxPool, PoolSum  # noqa: E402

import knerex_jax.emulator.fixed as fixed  # noqa: E402
import knerex_jax.emulator.prepare as prepare  # noqa: E402
import knerex_jax.program.bounds as bounds_module  # noqa: E402
from knerex_jax.program.bounds import bound_program, join  # noqa: E402
from knerex_jax.program.primitives import Instruction  # noqa: E402


def test_every_primitive_has_its_rules():
    rules = {t.rule for t in Instruction.__args__}
    for module in (bounds_module, prepare, fixed):
        assert set(module._RULES) == rules - {"island"}, module.__name__  # islands need more than their own constants


def build_mac(**c):
    b = Build()
    x = b.input(8, 1, 2, 3, 3)
    b.mac(x, "conv", outputs=1, kernel=(1, 1), act="clip")
    weight = np.asarray([[[[100]], [[-50]]]], np.int8)
    one = np.ones(1, np.int32)
    b.constants["mac0"] = {
        "weight": weight, "bias": 1000 * one, "n1": 0 * one, "m": (1 << 14) * one, "n2": 22 * one,
        "lo": 0 * one, "hi": 10_000 * one, **c,
    }  # fmt: skip
    return b


def test_bounds_of_a_mac_by_hand():
    b = build_mac()
    bounds = bound_program(b.program(), b.constants)
    step = bounds.step["mac0"]
    # Least: 100 * -128 - 50 * 127 = -19150; most: 100 * 127 + 50 * 128 = 19100.
    assert step.terms == 2 and step.sum == 19150
    assert step.value == 20100 and step.product == 10_000 << 14
    assert step.shift == (22, 22) and step.entry == (0, 0)
    assert bounds.code["mac0:0"] == (0, 39)  # 10000 * 2**14 / 2**22 = 39.06
    assert step.proven and bounds.unproven == () and step.spare_bits > 16


def test_the_proof_says_where_a_register_can_saturate():
    b = build_mac(bias=np.asarray([2**31 - 19_000]))
    bounds = bound_program(b.program(), b.constants)
    assert bounds.unproven == ("mac0",)
    step = bounds.step["mac0"]
    assert (step.saturating, step.channels) == (1, 1) and step.value == 2**31 + 100 and step.spare_bits < 0


def test_codes_follow_clips_pools_and_moves():
    b = build_mac()
    y = "mac0:0"
    b.tensors[y] = b.tensors[y]
    pooled = b.pool(MaxPool, y, kernel=(2, 2), strides=(1, 1))
    b.constants[pooled[:-2]]["n"] = np.zeros(1, np.int32)
    padded = b.move("pad", [pooled], (1, 1, 3, 3), ((0, 0, 1, 0), (0, 0, 0, 1)))
    b.constants[padded[:-2]]["n"] = np.zeros(1, np.int32)
    total = b.pool(PoolSum, padded, axes=(2, 3), mean=False)
    b.constants[total[:-2]]["n"] = np.asarray([2], np.int32)
    again = b.mac(total, "conv", outputs=1, kernel=(1, 1))
    b.constants[again[:-2]] |= {"weight": np.full((1, 1, 1, 1), 3, np.int8), "bias": np.zeros(1, np.int64)}
    bounds = bound_program(b.program(), b.constants)
    assert bounds.code[pooled] == bounds.code[padded] == (0, 39)
    assert bounds.step[total[:-2]].sum == 9 * 39 and bounds.code[total] == (0, 88)
    assert bounds.step[again[:-2]].sum == 3 * 88


def test_a_table_reaches_only_what_its_input_reaches():
    b = build_mac()
    y = b.table("mac0:0")
    table = np.arange(-128, 128).astype(np.int8)[::-1]
    b.constants[y[:-2]]["table"] = table
    assert bound_program(b.program(), b.constants).code[y] == (-40, -1)


def test_join_holds_for_every_plan():
    plans = [build_mac(), build_mac(bias=np.asarray([-10_000]), hi=np.asarray([90]), n2=np.asarray([14]))]
    program = plans[0].program()
    each = [bound_program(program, b.constants) for b in plans]
    both = join(each)
    assert both.step["mac0"].value == max(e.step["mac0"].value for e in each)
    assert both.step["mac0"].shift == (14, 22)
    assert both.code["mac0:0"] == (0, 90)
    assert join([both, *each]) == both and hash(both)
