"""What the terminal says about a finished run."""

import io

import numpy as np
import onnx
from onnx_text import proto_of
from rich.console import Console

import knerex_jax as kx
from knerex_jax.present import print_result

NET = """
(float[1,4,6] x) => (float[1,4,6] z, int64[1,4,2] k) <int64 two = {2}, int64[1] best = {2}> {
  [sum] a = CumSum(x, two)  [erf] b = Erf(a)  [more] c = CumSum(b, two)  [top] v, k = TopK(c, best)  [act] z = Relu(b)
}"""


def test_it_names_what_runs_on_the_host_and_counts_the_cpu(tmp_path):
    onnx.save(proto_of(NET), tmp_path / "net.onnx")
    data = np.random.default_rng(0).normal(size=(16, 4, 6)).astype(np.float32)
    result = kx.run_ptq(
        p_onnx=tmp_path / "net.onnx",
        np_txt={"x": list(data)},
        p_output=tmp_path / "out",
        cpu_node_bitwidth_mode="int16",
    )
    text = io.StringIO()
    print_result(Console(file=text, width=200), result, {})
    lines = text.getvalue().splitlines()
    (said,) = [line for line in lines if "on the CPU instead" in line]
    assert said.startswith("4 nodes on the CPU instead of the NPU: ") and said.endswith("(knerex check says why)")
    assert set(said.split(": ")[1].split(" (")[0].split(", ")) == set(result.report["cpu_nodes"])
    assert "runs on the host in float: 2 CumSum, 1 TopK" in lines
    assert result.report["cpu_nodes"] == ["sum", "erf", "more", "top"]
    assert [i["op"] for i in result.report["islands"]] == ["CumSum", "CumSum", "TopK"]
    assert result.report["applied"]["cpu_node_bitwidth_mode"] == "int16"
    assert result.report["requested"]["const_in_bitwidth_mode"] is None
    assert (
        "note: cpu_node_bitwidth_mode: requested int16, applied int16 (4 nodes on the CPU: sum, erf, more, top)"
        in lines
    )
