"""One changed rounding, shift, halo or index in the simulator, and the match with the emulator fails."""

import inspect
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
import pytest
from helpers import samples
from npu_nets import TABLE, backbone, tail
from planning import plan

from knerex_jax.artifacts.bie import Bie
from knerex_jax.compiler.build import Compiled, Request, compile_program
from knerex_jax.csim import arithmetic, elementwise, layout, mac, move, window
from knerex_jax.errors import SimulationError
from knerex_jax.npu_model import NpuModel
from knerex_jax.runtime import FixedModel
from knerex_jax.targets.machine import MACHINES


@dataclass(frozen=True)
class Subject:
    """A compiled network, one sample, and the emulator's codes."""

    compiled: Compiled
    inputs: dict[str, np.ndarray]
    wanted: dict[str, np.ndarray]

    def matches(self) -> bool:
        """Whether the simulator runs, and holds the emulator's codes."""
        try:
            found = NpuModel(self.compiled.program, self.compiled.weight).run(self.inputs, "fixed")
        except (SimulationError, ValueError, IndexError):
            return False
        return all(np.array_equal(found[t].ravel(), v.ravel()) for t, v in self.wanted.items())


def _subject(net, platform: str, width: str, sram: int) -> Subject:
    model = net[0].model(*net[1])
    data = samples(model, 4)
    planned = plan(model, data, platform, width)
    one = {t: v[:1] for t, v in data.items()}
    wanted = FixedModel(Bie(planned.program, planned.constants, planned.plan, {})).run(one, "fixed")
    target = replace(MACHINES[platform], sram=sram)
    return Subject(compile_program(Request(planned.program, planned.constants, machine=target)), one, wanted)


SUBJECTS = {
    "backbone": lambda: _subject(backbone(table=True), "720", "int8", 9_216),
    "backbone 520": lambda: _subject(backbone(table=True), "520", "int8", 9_216),
    "wide": lambda: _subject(backbone(table=False), "730", "int16", 16_384),
    "tail": lambda: _subject(tail(), "730", "int8", TABLE + 32_768),
}

MUTANTS = [
    (arithmetic, "shift_right", "right - 1, 0)), 0)", "right - 1, 0)), 0) - (right > 0)", "backbone"),
    (arithmetic, "shift_right", "down = (x + half) >> right", "down = x >> right", "backbone"),
    (arithmetic, "shift_right", "left = np.maximum(-n, 0)", "left = np.maximum(-n - 1, 0)", "backbone 520"),
    (arithmetic, "limits", "(1 << (bits - 1)) - 1", "(1 << (bits - 1)) - 2", "backbone"),
    (arithmetic, "limits", "-(1 << (bits - 1)), ", "1 - (1 << (bits - 1)), ", "backbone"),
    (mac, "mac", 'p + channels("bias")', "p + 0", "backbone"),
    (mac, "mac", 'channels("six")', 'channels("six") // 2', "backbone"),
    (mac, "mac", 'channels("n2")', 'channels("n2") + 1', "backbone"),
    (mac, "mac", "p < 0, steep", "p > 0, steep", "backbone"),
    (mac, "_conv", "pad_box(x, window.pads, 0)", "pad_box(x, window.pads, 1)", "backbone"),
    (mac, "_conv", "pad_box(x, window.pads, 0)", "pad_box(x, tuple((b, a) for a, b in window.pads), 0)", "backbone"),
    (mac, "_conv_transpose", "(-p0, e)", "(-p0 + 1, e - 1)", "tail"),
    (mac, "_strided", "slice(t * d, t * d", "slice(t * d * s, t * d * s", "backbone"),
    (elementwise, "align", "total + sign * x", "total - sign * x", "backbone"),
    (elementwise, "align", 'constants["n_out"]', 'constants["n_out"] + 1', "wide"),
    (elementwise, "table", "1 << (i.x_bits - 1)", "(1 << (i.x_bits - 1)) - 1", "backbone"),
    (elementwise, "mul", "multiply(a, b)", "multiply(a, b) + 64", "wide"),
    (window, "pool_sum", 'n + constants["e"]', "n", "backbone"),
    (window, "max_pool", "_NEVER", "0", "backbone"),
    (window, "interp", "weight[:, t]", "weight[:, -1 - t]", "tail"),
    (move, "_moved", "x.transpose(args[0])", "x.transpose(args[0]).copy()[..., ::-1]", "tail"),
    (move, "move", "n[: x.shape[axis]]", "n[: x.shape[axis]] + 1", "tail"),
    (layout, "axis_places", "c // 4 * (high * line * 4) + c % 4", "c // 4 * (high * line * 4) + c % 4 * 2", "backbone"),
    (layout, "axis_places", "(1 if swapped else high)", "(high if swapped else 1)", "backbone 520"),
    (layout, "axis_places", "grain = 16 if platform", "grain = 8 if platform", "backbone 520"),
    (layout, "_two_bytes", "place // 16 * 32 + place % 16", "place * 2 % 32 + place // 16 * 32", "wide"),
    (layout, "load", "place + 16", "place + 15", "wide"),
]  # fmt: skip


@pytest.mark.parametrize("name", SUBJECTS)
def test_mutants_are_caught(monkeypatch, name):
    subject = SUBJECTS[name]()
    assert subject.matches()
    for module, function, old, new, where in MUTANTS:
        if where == name:
            with monkeypatch.context() as patch:
                _change(patch, module, function, old, new)
                assert not subject.matches(), (function, old, new)
    assert subject.matches()


def _change(patch: pytest.MonkeyPatch, module: ModuleType, name: str, old: str, new: str) -> None:
    function = getattr(module, name)
    source = inspect.getsource(function)
    assert source.count(old) == 1, "the place that is changed"
    scope = dict(vars(module))
    exec(source.replace(old, new), scope)
    patch.setattr(function, "__code__", scope[name].__code__)


def test_there_are_enough_of_them():
    assert len(MUTANTS) >= 20 and {m[4] for m in MUTANTS} == set(SUBJECTS)
