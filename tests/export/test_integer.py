"""dynasty = integer ONNX on ONNX Runtime, in every tensor, by whatever sessions."""

import numpy as np
import onnx
import pytest
from helpers import Net, samples
from npu_nets import backbone, tail
from onnx_sessions import run_codes
from planning import plan

from knerex_jax import embedded
from knerex_jax.artifacts.bie import Bie
from knerex_jax.emulator.run import dequantize
from knerex_jax.export.integer import integer_onnx
from knerex_jax.probe import behind_islands
from knerex_jax.runtime import FixedModel


def wide() -> tuple[Net, tuple[str, ...]]:
    """Sums of 15-bit codes that need every kind of cut: grouped, pointwise, transposed, dense, pooled, interpolated."""
    net = Net({"x": (1, 64, 8, 8)}, seed=3)
    y = net.add("LeakyRelu", net.conv("x", 64, kernel=3, group=2), alpha=0.3)
    y = net.conv(net.add("HardSwish", net.conv(y, 96, kernel=1)), 64, kernel=1)
    up = net.add(
        "ConvTranspose", y, net.random(64, 8, 3, 3, scale=0.2), kernel_shape=(3, 3), strides=(2, 2), dilations=(1, 1),
        pads=(1, 1, 0, 0), output_padding=(0, 0), group=1,
    )  # fmt: skip
    big = net.add("Resize", up, sizes=(1, 8, 24, 24), mode="linear")
    return net, (big, net.add("GlobalAveragePool", y), net.add("Clip", net.conv(y, 8, kernel=1), min=-0.5, max=0.7))


CASES = [
    (backbone(table=True), "520", "int8"),
    (backbone(table=True), "720", "int8"),
    (backbone(table=False), "730", "w8a16"),
    (backbone(table=False), "730", "int16"),
    (tail(), "520", "int8"),
    (tail(), "730", "w8a16"),
    (tail(), "720", "int16"),
]


@pytest.mark.parametrize(("net", "platform", "width"), CASES)
def test_every_tensor_is_the_emulators(net, platform, width):
    model = net[0].model(*net[1])
    data = samples(model, 4)
    planned = plan(model, data, platform, width)
    program = planned.program
    bie = Bie(program, planned.constants, planned.plan, {"source_sha256": "1"})
    taps = tuple(t for t, _ in program.tensors)
    one = {t: v[:1] for t, v in data.items()}
    wanted = FixedModel(bie).run(one, "fixed", taps=taps)
    made = integer_onnx(bie, taps=taps)
    onnx.checker.check_model(made, full_check=True)
    assert {n.domain for n in made.graph.node} == {""}, "standard operators only"
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        found = run_codes(made, one, level)
        free = [t for t in taps if t not in behind_islands(program)]
        assert len(free) > 6
        wrong = [t for t in free if not np.array_equal(found[f"{t}_codes"].ravel(), wanted[t].ravel())]
        assert wrong == [], level
        for t in (t for t in program.outputs if t in free):
            real = dequantize(program, planned.constants, t, wanted[t])
            np.testing.assert_array_equal(found[t].ravel(), real.ravel())


def test_the_file_says_what_it_claims():
    net, outputs = backbone(table=False)
    model = net.model(*outputs)
    planned = plan(model, samples(model, 2), "720", "int8")
    made = integer_onnx(Bie(planned.program, planned.constants, planned.plan, {"source_sha256": "abc"}))
    said = {p.key: p.value for p in made.metadata_props}
    assert said["knerex.source_sha256"] == "abc" and said["knerex.islands"] == "[]"
    assert all(t in said["knerex.equal_outputs"] for t in outputs) and not behind_islands(planned.program)


def test_large_inputs_saturate_as_in_the_emulator():
    net, outputs = wide()
    model = net.model(*outputs)
    data = samples(model, 3)
    for platform, width in (("730", "int16"), ("520", "int8")):
        planned = plan(model, data, platform, width)
        bie = Bie(planned.program, planned.constants, planned.plan, {})
        taps = tuple(t for t, _ in planned.program.tensors)
        one = {t: 1e3 * v[:1] for t, v in data.items()}
        wanted = FixedModel(bie).run(one, "fixed", taps=taps)
        for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
            found = run_codes(integer_onnx(bie, taps=taps), one, level)
            wrong = [t for t in taps if not np.array_equal(found[f"{t}_codes"].ravel(), wanted[t].ravel())]
            assert wrong == [], (platform, level)


def test_the_embedded_model(tmp_path):
    import knerex_jax as kx

    result = kx.run_ptq(p_onnx=embedded.model_path(), np_txt=embedded.calibration(), p_output=tmp_path, mode=1)
    model = onnx.load(result.paths["integer_onnx"])
    inputs, _ = embedded.evaluation()
    codes = kx.FixedModel.load(result.paths["bie"]).run({t: v[:5] for t, v in inputs.items()}, "fixed")["logits"]
    for k in range(5):
        found = run_codes(model, {t: v[k : k + 1] for t, v in inputs.items()}, "ORT_ENABLE_ALL")
        np.testing.assert_array_equal(found["logits_codes"][0], codes[k])
