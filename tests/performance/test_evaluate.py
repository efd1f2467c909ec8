"""The evaluator on whole models: what adds up to what, what may never be slower, what does not fit."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from npu_nets import backbone, tail
from onnx_text import proto_of

import knerex_jax as kx
from knerex_jax import embedded
from knerex_jax.cli import main
from knerex_jax.compiler.build import Request, compile_program
from knerex_jax.compiler.cost import estimate
from knerex_jax.performance.nodes import node_costs
from knerex_jax.performance.nominal import nominal_plan
from knerex_jax.performance.text import evaluation_text
from knerex_jax.performance.totals import totals
from knerex_jax.quantize.config import PTQConfig
from knerex_jax.targets.machine import MACHINES, read_ip_config, write_ip_config

PLATFORMS = ("520", "530", "630", "720", "730")
STUCK = """
(float[1,3,8,8] x) => (float[?] y, float[?] z) <float[8,3,3,3] w>
{
  [conv] a = Conv(x, w) [mine] b = custom.Mine(a) [after] y = Sigmoid(b)
  [beside] c = Conv(x, w) [last] z = Relu(c)
}
"""


@pytest.fixture(scope="module")
def evaluations() -> dict[str, kx.Evaluation]:
    return {p: kx.evaluate(embedded.model_path(), p) for p in PLATFORMS}


@pytest.mark.parametrize("platform", PLATFORMS)
def test_published_identities(evaluations, platform):
    """Section by section what the published reports satisfy."""
    s = evaluations[platform].summary()
    assert s["fps"] == pytest.approx(1000 / s["ITC(ms)"], rel=1e-12)
    assert s["ITC(ms)"] == pytest.approx(s["MAC idle time(ms)"] + s["MAC running time(ms)"], rel=1e-12)
    assert s["MAC efficiency"] == pytest.approx(s["total theoretical convolution time(ms)"] / s["ITC(ms)"], rel=1e-12)
    assert s["ITC(ms)"] == pytest.approx(s["total cycles"] / s["Frequency (MHz)"] / 1e3, rel=1e-12)
    moved = s["RV(Byte)"] / s["RDMA bandwidth GB/s"] + s["WV(Byte)"] / s["WDMA bandwidth GB/s"]
    assert s["data move time(ms)"] == pytest.approx(moved * 1e-6, rel=1e-12)
    assert s["data move amount(GB)"] == pytest.approx((s["RV(Byte)"] + s["WV(Byte)"]) * 1e-9, rel=1e-12)
    assert s["average data bandwidth GB/s"] == pytest.approx(s["data move amount(GB)"] / s["ITC(ms)"] * 1e3, rel=1e-12)
    weights = s["weight amount(KB)"] * 1e-6 / s["ITC(ms)"] * 1e3
    assert s["average weight bandwidth GB/s"] == pytest.approx(weights, rel=1e-12)
    assert s["average DRAM bandwidth GB/s"] == pytest.approx(s["average data bandwidth GB/s"] + weights, rel=1e-12)
    assert 0 < s["MAC efficiency"] <= 1 and s["peak SRAM(Byte)"] <= s["SRAM(Byte)"]


@pytest.mark.parametrize(("net", "fuses"), [(backbone(table=True), True), (tail(), False)], ids=["backbone", "tail"])
@pytest.mark.parametrize("sram", [None, 24_576])
def test_nodes_add_up_to_the_whole(net, fuses, sram):
    built, outputs = net
    model = built.model(*outputs)
    config = PTQConfig(platform="720")
    planned = nominal_plan(model, config)
    machine = MACHINES["720"] if sram is None else replace(MACHINES["720"], sram=sram)
    program = compile_program(Request(planned.program, planned.constants, machine=machine)).program
    cost = estimate(program, machine)
    nodes = node_costs(program, cost, machine)
    whole = totals(program, cost, machine)
    assert sorted(k for n in nodes for k in n.commands) == list(range(len(program.commands)))
    assert sum(n.sync_ms for n in nodes) == pytest.approx(whole.time_ms, rel=1e-9)
    assert all(n.sync_ms >= 0 for n in nodes)
    assert sum(n.runtime_ms for n in nodes) == pytest.approx(whole.serial_seconds * 1e3, rel=1e-9)
    for name in ("read_bytes", "written_bytes", "weight_bytes", "products"):
        assert sum(getattr(n, name) for n in nodes) == getattr(whole, name)
    made = [n for node in nodes for n in node.names]
    assert len(made) == len(set(made)), "no node is counted twice"
    assert {n for i in planned.program.instructions for n in i.nodes} >= set(made)
    assert any(len(n.names) > 1 for n in nodes) == fuses


def test_published_columns(evaluations):
    rows = evaluations["720"].to_json()["nodes"]
    npu = [r for r in rows if r["type"] == "NPU"]
    for row in npu:
        parts = (row[f"{unit}_runtime(ms)"] for unit in ("CFUNC", "PFUNC", "RDMA", "WDMA"))
        assert row["runtime(ms)"] == pytest.approx(sum(parts), rel=1e-12)
        assert row["MAC_cycle"] == pytest.approx(row["MAC_runtime(ms)"] * 1e3 * 700, rel=1e-12)
        assert (row["bw in"], row["bw out"]) == (8, 8) and row["in_fmt"] and row["out_fmt"]
    assert all(r["node origin"] for r in npu)
    fused = [r for r in rows if r["type"] == "FUSED"]
    assert fused and {r["node backend"] for r in fused} <= {r["node backend"] for r in npu}
    json.dumps(rows, allow_nan=False)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("figure", ["macs", "rdma", "wdma", "getw", "megahertz", "lanes", "pool", "move", "depthwise"])
def test_more_of_anything_is_never_slower(tmp_path, platform, figure):
    base = MACHINES[platform]
    times = []
    for factor in (0.25, 0.5, 1, 2, 8, 1000):
        path = write_ip_config(platform, tmp_path, base.changed({figure: getattr(base, figure) * factor}, "test"))
        times.append(kx.evaluate(embedded.model_path(), platform, ip_config=path).time_ms)
    assert times == sorted(times, reverse=True)
    unused = (platform, figure) == ("520", "move")  # its Flatten is the CPU's
    assert (times[0] == times[-1]) == unused


def test_smaller_inputs_are_never_slower(tmp_path):
    text = """
    (float[1,3,{n},{n}] x) => (float[?] y)
    <float[16,3,3,3] a, float[16,1,3,3] d, float[24,16,1,1] p, float[40,24,3,3] c>
    {{ t = Conv<pads=[1,1,1,1], strides=[2,2]>(x, a) u = Relu(t) v = Conv<group=16, pads=[1,1,1,1]>(u, d)
      e = Relu(v) f = Conv(e, p) g = Conv<pads=[1,1,1,1], strides=[2,2]>(f, c) h = Relu(g) y = GlobalAveragePool(h) }}
    """
    for platform in PLATFORMS:
        times = []
        for n in range(16, 449, 48):
            path = tmp_path / f"{n}.onnx"
            onnx.save(_with_constants(proto_of(text.format(n=n), 17)), path)
            times.append(kx.evaluate(path, platform).time_ms)
        assert times == sorted(times), platform


def _with_constants(proto):
    rng = np.random.default_rng(0)
    for tensor in proto.graph.initializer:
        made = onnx.numpy_helper.from_array(rng.normal(size=tuple(tensor.dims)).astype(np.float32), tensor.name)
        tensor.CopyFrom(made)
    return proto


def test_wide_operands_cost_more_and_narrow_weights_less():
    path = embedded.model_path()
    by_width = {
        (d, w): kx.evaluate(path, "730", datapath_bitwidth_mode=d, model_in_bitwidth_mode=d, weight_bitwidth_mode=w)
        for d, w in (("int8", "int4"), ("int8", "int8"), ("int16", "int8"), ("int16", "int16"))
    }
    cycles = [sum(n.mac_cycles for n in e.nodes) for e in by_width.values()]
    assert cycles[0] < cycles[1] < cycles[2] < cycles[3] and cycles[3] == pytest.approx(4 * cycles[1], rel=1e-9)
    assert by_width["int16", "int8"].widths["datapath"] == "int16"
    assert by_width["int8", "int4"].totals.weight_bytes < by_width["int8", "int8"].totals.weight_bytes


def test_bandwidths_of_the_call():
    slow = kx.evaluate(embedded.model_path(), "720", weight_bandwidth=0.1, dma_bandwidth=0.01)
    assert (slow.machine.getw, slow.machine.rdma, slow.machine.wdma) == (0.1, 0.01, 0.01)
    assert slow.time_ms > 5 * kx.evaluate(embedded.model_path(), "720").time_ms
    assert {a.limit for a in slow.advice} & {"weights", "reading", "writing"}


def test_ip_config_goes_out_and_comes_back(tmp_path):
    path = write_ip_config("530", tmp_path)
    assert path.name == "ip_config_530.json"
    again = read_ip_config(path, MACHINES["530"])
    assert again == MACHINES["530"]
    path.write_text(json.dumps({"megahertz": 250}))
    plain, slow = (kx.evaluate(embedded.model_path(), "530", ip_config=p) for p in (None, path))
    assert slow.machine.megahertz == 250 and slow.time_ms > plain.time_ms
    path.write_text(json.dumps({"megaherz": 250}))
    with pytest.raises(kx.ConfigError, match="megaherz"):
        kx.evaluate(embedded.model_path(), "530", ip_config=path)


def test_every_figure_has_a_source():
    for platform, machine in MACHINES.items():
        for name in machine.to_json():
            source = machine.sources.get(name, "")
            assert source.split(":")[0] in ("published", "fitted", "assumed"), (platform, name)


@pytest.fixture
def stuck(tmp_path):
    onnx.save(_with_constants(proto_of(STUCK, 17)), tmp_path / "stuck.onnx")
    return tmp_path / "stuck.onnx"


def test_what_cannot_run_is_listed_and_the_rest_is_estimated(stuck):
    found = kx.evaluate(stuck, "720")
    assert not found.supported and [n.name for n in found.unsupported] == ["mine", "after"]
    assert "Mine" in found.unsupported[0].reason and found.fps > 0
    assert {n for node in found.nodes for n in node.origin} >= {"conv", "beside"}
    assert "without 2 nodes" in found.caveat and "mine" in evaluation_text(found)


def test_cpu_nodes_are_named_and_the_frame_rate_says_so(tmp_path):
    text = "(float[1,4,8,8] x) => (float[?] y) <float[4,4,1,1] w> { [c] a = Conv(x, w) [s] y = Softmax<axis=1>(a) }"
    onnx.save(_with_constants(proto_of(text, 17)), tmp_path / "net.onnx")
    found = kx.evaluate(tmp_path / "net.onnx", "520")
    assert found.cpu_nodes and found.supported and found.caveat.startswith("NPU only")
    assert all(why for why in found.cpu_nodes.values())
    assert {n.limit for n in found.nodes if n.kind == "CPU"} == {"host"}
    assert found.summary()["cpu_node"] != "N/A"


def test_a_bie_and_its_nef_cost_the_same(tmp_path):
    data = {k: list(v[:8]) for k, v in embedded.calibration().items()}
    result = kx.run_ptq(p_onnx=embedded.model_path(), np_txt=data, platform="730", p_output=tmp_path)
    of = {name: kx.evaluate(result.paths[name]) for name in ("bie", "nef")}
    assert of["bie"].totals == of["nef"].totals == result.evaluation.totals
    assert [n.sync_ms for n in of["bie"].nodes] == [n.sync_ms for n in of["nef"].nodes]
    assert of["bie"].nodes[0].origin and not of["nef"].nodes[0].origin
    assert result.report["performance"]["summary"]["fps"] == pytest.approx(result.evaluation.fps)
    for name, options in (("bie", {"datapath_bitwidth_mode": "int16"}), ("nef", {"fm_cut": "deep_search"})):
        with pytest.raises(kx.ConfigError, match="does not apply"):
            kx.evaluate(result.paths[name], **options)
    with pytest.raises(kx.ConfigError, match="for platform 730"):
        kx.evaluate(result.paths["bie"], "520")


def test_mode_0_estimates_without_data(tmp_path):
    result = kx.run_ptq(p_onnx=embedded.model_path(), mode=0, platform="630", p_output=tmp_path)
    made = ["model_fx_report.html", "model_fx_report.json", "run.toml"]
    assert sorted(p.name for p in tmp_path.iterdir()) == made == [p.name for p in result.paths.values()]
    assert result.evaluation.fps == kx.evaluate(embedded.model_path(), "630").fps
    assert json.loads(result.paths["report_json"].read_text())["performance"]["summary"]["platform"] == "630"


def test_options_that_change_nothing_are_refused():
    mixed = {"weight_bitwidth_mode": "mixbw", "datapath_bitwidth_mode": "int16"}
    for options, word in (
        ({"data_analysis_pct": 0.5}, "data_analysis_pct"),
        (mixed, "mixbw"),
        ({"fm_cutt": "default"}, "did you mean 'fm_cut'"),
    ):
        with pytest.raises(kx.ConfigError, match=word):
            kx.evaluate(embedded.model_path(), **options)
    with pytest.raises(kx.ConfigError, match="cannot be read"):
        kx.evaluate("nowhere.onnx")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as done:
        main(["evaluate", *arguments])
    return done.value.code


def test_command(capsys, tmp_path, stuck):
    assert run(str(embedded.model_path()), "--platform", "720", "--json", "-o", str(tmp_path / "out")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "ip_evaluation_720.json").read_text())
    assert "fps" in (tmp_path / "out" / "ip_evaluation_720.txt").read_text()
    assert run(str(embedded.model_path()), "--platform", "all") == 0
    printed = capsys.readouterr().out
    assert all(p in printed for p in PLATFORMS)
    assert run(str(stuck)) == 1
    assert "cannot run" in capsys.readouterr().out
    exported = ("--platform", "530", "--write-ip-config", str(tmp_path), "--dma-bandwidth", "3")
    assert run(str(embedded.model_path()), *exported) == 0
    assert json.loads((tmp_path / "ip_config_530.json").read_text())["rdma"] == 3
