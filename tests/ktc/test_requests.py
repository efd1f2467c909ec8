"""Old names, requests that cannot be honoured, and folders that are not there."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest

import knerex_jax as kx
import knerex_jax.ktc as ktc
from knerex_jax import embedded
from knerex_jax.ktc import folders, kneronnxopt, onnx_optimizer
from knerex_jax.ktc.model_config import OLD_ANALYSIS
from knerex_jax.nef.tools import nef_info

MODEL = embedded.model_path()
IMAGES = embedded.calibration()["input"][:4]
MAPPING = {"input": [IMAGES[i : i + 1] for i in range(4)]}
KEY = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """A model after its analysis, with an old name for each of its folders."""
    folder = tmp_path_factory.mktemp("flow")
    km = ktc.ModelConfig(32769, "0001", "720", onnx_path=MODEL)
    with pytest.warns(FutureWarning) as told:
        path = km.analysis(MAPPING, output_bie=str(folder / "old" / "output.bie"), outlier=0.99, skip_verify=False)
    assert {str(w.message).split()[0] for w in told} == {"output_bie", "outlier", "skip_verify"}
    return km, Path(path)


def test_the_bie_is_where_an_old_script_wants_it(quantized):
    km, path = quantized
    assert path.name == "output.bie" and path.parent.name == "old"
    assert path.read_bytes() == km.result.paths["bie"].read_bytes()
    applied = km.result.report["applied"]
    assert applied["data_analysis_pct"] == 0.99 and applied["mode"] == 2 and km.result.bit_true_match is True
    assert OLD_ANALYSIS["skip_verify"][1](True) == {"mode": 1}
    assert applied["percentage_16b"] == 0.999999 and applied["optimize"] == 0 and applied["layout"] == "NCHW"


@pytest.mark.parametrize(
    ("old", "expected"),
    [
        ({"fm_cut": "deep_search"}, {"fm_cut": "deep_search"}),
        ({"hardware_cut_opt": True}, {"fm_cut": "deep_search"}),
        ({"hardware_cut_opt": False}, {"fm_cut": "default"}),
        ({"bitwidth_mode": "int16"}, {"datapath_bitwidth_mode": "int16", "weight_bitwidth_mode": "int16"}),
    ],
)
def test_old_arguments_are_translated(tmp_path, old, expected):
    km = ktc.ModelConfig(32769, "0001", "720", onnx_path=MODEL)
    with pytest.warns(FutureWarning, match=next(iter(old))):
        assert km.analysis(MAPPING, tmp_path, mode=0, **old) is None
    assert expected.items() <= km.result.report["requested"].items()


def test_the_options_that_only_apply_where_they_can(tmp_path):
    """Defaults of the published call are not requests: 520 has no 16 bits, and percentage may be 1.0."""
    km = ktc.ModelConfig(32769, "0001", 520, onnx_path=MODEL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        km.analysis(MAPPING, tmp_path, percentage=1.0, mode=0)
    assert km.result.report["applied"]["percentage_16b"] == 1.0
    with pytest.warns(ktc.AppliedOtherwise, match="compiler_tiling: requested deep_search, applied default"):
        km.analysis(MAPPING, tmp_path, compiler_tiling="deep_search", mode=0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "no model"),
        ({"onnx_path": MODEL, "bie_path": "x.bie"}, "2 models"),
        ({"onnx_path": MODEL, "version": "12345"}, "longer than four"),
        ({"onnx_path": MODEL, "version": "wxyz"}, "not hexadecimal"),
        ({"onnx_path": MODEL, "platform": 540}, "'540' is not a value of platform"),
        ({"onnx_path": MODEL, "id": 0}, "id has to be a number"),
        ({"onnx_path": MODEL, "input_fmt": "2W2C"}, "'2W2C' is not a value"),
        ({"onnx_path": MODEL, "radix_json_path": "r.json"}, "not public"),
        ({"onnx_path": MODEL, "compiler_config_path": "c.json"}, "not public"),
    ],
)
def test_refused_models(arguments, said):
    with pytest.raises(kx.ConfigError, match=said):
        ktc.ModelConfig(**{"id": 32769, "version": "0001", "platform": "720"} | arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"percentage": 2}, kx.ConfigError, "percentage has to be a number"),
        ({"compiler_tiling": "performance"}, kx.ConfigError, "where: compiler_tiling='performance'"),
        ({"thread": 2}, kx.ConfigError, r"analysis has no argument 'thread'[\s\S]*did you mean 'threads'"),
        ({"input_mapping": {"inputs": MAPPING["input"]}}, kx.ModelError, "did you mean 'input'"),
        ({"input_mapping": {"input": [IMAGES[0, 0, :, :, None][:, :14]]}}, kx.ModelError, "does not fit"),
        ({"input_mapping": {"input": []}}, kx.ModelError, "no samples"),
    ],
)
def test_refused_analyses(tmp_path, arguments, error, said):
    km = ktc.ModelConfig(32769, "0001", "720", onnx_path=MODEL)
    with pytest.raises(error, match=said):
        km.analysis(**{"input_mapping": MAPPING, "output_dir": tmp_path} | arguments)
    assert km.bie_path is None and not list(tmp_path.rglob("*.bie"))


def test_a_bie_is_evaluated_but_not_quantized_again(tmp_path, quantized):
    km = ktc.ModelConfig(32769, "0001", "720", bie_path=quantized[1])
    with pytest.warns(ktc.AppliedOtherwise, match="datapath_bitwidth_mode: requested int16, applied that of the bie"):
        assert "fps" in km.evaluate(tmp_path, datapath_bitwidth_mode="int16", weight_bandwidth=1.0)
    with pytest.raises(kx.ConfigError, match="quantized already"):
        km.analysis(MAPPING, tmp_path)


def test_nodes_that_cannot_run_are_warned_of(tmp_path):
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17, "mine": 1]>
        net (float[1, 3, 4, 4] x) => (float[1, 3, 4, 4] y, float[1, 3, 4, 4] z) {
          y = Relu(x)
          z = mine.Strange(y)
        }""")
    with pytest.warns(ktc.AppliedOtherwise, match="without those that cannot run"):
        text = ktc.ModelConfig(32769, "0001", "720", onnx_model=model).evaluate(tmp_path)
    assert "Strange" in text and "cannot run" in text


def test_compiling_says_what_has_no_choice(tmp_path, quantized):
    km, _ = quantized
    with pytest.warns() as told:
        ktc.compile([km], tmp_path, dedicated_output_buffer=False, flatbuffer=False, hardware_cut_opt=True)
    texts = [str(w.message) for w in told]
    for name in ("dedicated_output_buffer: requested False", "flatbuffer: requested False", "hardware_cut_opt"):
        assert any(t.startswith(name) for t in texts), texts
    with pytest.warns(ktc.AppliedOtherwise, match="partial_graph_search, applied deep_search"):
        ktc.compile([km], tmp_path, compiler_tiling="partial_graph_search", dma_bandwidth=2.0)


def test_what_cannot_be_compiled(tmp_path, quantized):
    km, bie = quantized
    cases = [
        ([], kx.ConfigError, "no list of models"),
        (km, kx.ConfigError, "no list of models"),
        ([ktc.ModelConfig(1, "1", "720", onnx_path=MODEL)], kx.ConfigError, "not quantized yet"),
        ([ktc.ModelConfig(1, "1", "730", bie_path=bie)], kx.ConfigError, "for platform 720, not 730"),
        ([km, ktc.ModelConfig(32769, "2", "720", bie_path=bie)], kx.ArtifactError, "32769"),
    ]
    for models, error, said in cases:
        with pytest.raises(error, match=said):
            ktc.compile(models, tmp_path)
    assert not list(tmp_path.iterdir())


def test_encryption(tmp_path, quantized):
    km, _ = quantized
    file = tmp_path / "key"
    file.write_bytes(bytes.fromhex(KEY))
    for arguments in ({"key": KEY}, {"key_file": file}, {"key": KEY, "key_file": file}):
        path = ktc.encrypt_compile([km], tmp_path, mode=1, **arguments)
        assert nef_info(path)["encryption"] != "none"
        assert kx.NpuModel.load(path, key=bytes.fromhex(KEY)).program.platform == "720"
    with pytest.warns(ktc.AppliedOtherwise, match="no chip whose fuses"):
        ktc.encrypt_compile([km], tmp_path, mode=1, key=KEY, encryption_efuse_key="00")
    with pytest.warns(ktc.AppliedOtherwise, match="mode None does not encrypt"):
        assert nef_info(ktc.encrypt_compile([km], tmp_path, key=KEY))["encryption"] == "none"
    refused = [
        ({"mode": 2, "encryption_efuse_key": "00"}, "fuses of a chip"),
        ({"mode": 3}, "an unknown mode"),
        ({"mode": 1}, "mode 1 needs a key"),
        ({"mode": 1, "key": "ab"}, "not a key of AES-256"),
        ({"mode": 1, "key": "xy"}, "not a key of AES-256"),
        ({"mode": 1, "key": "f" * 64, "key_file": file}, "two different keys"),
    ]
    for arguments, said in refused:
        with pytest.raises(kx.ConfigError, match=said):
            ktc.encrypt_compile([km], tmp_path, **arguments)


def test_inference(quantized, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "DATA", tmp_path)
    _, bie = quantized
    sample = {"pre_results": [IMAGES[:1]], "input_names": ["input"]}
    with pytest.warns(ktc.AppliedOtherwise, match="platform: requested 730, applied 720"):
        ktc.kneron_inference(**sample, bie_file=bie, platform=730)
    with pytest.warns(FutureWarning, match="radix is an argument of earlier releases: it is ignored"):
        ktc.kneron_inference(**sample, bie_file=bie, radix=8)
    with pytest.warns(ktc.AppliedOtherwise, match="dump: requested True, applied .*dump.zip"):
        (out,) = ktc.kneron_inference(**sample, bie_file=bie, dump=True)
    dumped = kx.load_dump(next((tmp_path / "kneron_flow").glob("*.dump.zip")))
    np.testing.assert_array_equal(dumped.read("logits"), out[0])
    (first,) = ktc.kneron_inference(**sample, onnx_file=MODEL, bie_file=bie)
    np.testing.assert_array_equal(first, kx.kneron_inference([IMAGES[:1]], ["input"], onnx_file=MODEL)[0])
    for arguments, said in (
        ({}, "no model to run"),
        ({"onnx_file": MODEL, "data_type": "fixed"}, "no codes"),
        ({"bie_file": bie, "reordering": ["logit"]}, "no output 'logit'"),
        ({"bie_file": bie, "nefs": "x"}, "no argument 'nefs'"),
    ):
        with pytest.raises(kx.ConfigError, match=said):
            ktc.kneron_inference(**sample, **arguments)


def test_a_file_that_changed_is_loaded_again(tmp_path, quantized):
    path = tmp_path / "model.onnx"
    sample = {"pre_results": [IMAGES[:1]], "input_names": ["input"], "onnx_file": path}
    path.write_bytes(MODEL.read_bytes())
    (before,) = ktc.kneron_inference(**sample)
    onnx.save(onnx_optimizer.pixel_modify(onnx.load(MODEL), [2.0], [0.25]), path)
    (after,) = ktc.kneron_inference(**sample)
    assert not np.array_equal(before, after)


def test_results_go_to_the_current_folder_where_the_published_one_cannot_be(tmp_path, monkeypatch, quantized):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(folders, "DATA", tmp_path / "file" / "data1")  # cannot be made, not even by root
    monkeypatch.chdir(tmp_path)
    with pytest.warns(ktc.AppliedOtherwise, match="output_dir: requested .* applied .*kneron_flow"):
        path = ktc.compile([quantized[0]])
    assert path == "kneron_flow/models_720.nef" and Path(path).is_file()
    with pytest.warns(ktc.AppliedOtherwise):
        assert ktc.combine_nef([path]) == "kneron_flow/combined"
    monkeypatch.setattr(folders, "DATA", tmp_path / "data1")
    assert ktc.compile([quantized[0]], "/data1/kneron_flow") == f"{tmp_path}/data1/kneron_flow/models_720.nef"


def test_small_helpers():
    assert ktc.convert_channel_last_to_first(np.zeros((8, 6, 3))).shape == (1, 3, 8, 6)
    with pytest.warns(DeprecationWarning):
        assert ktc.get_radix([np.array([0.5])]) == 8


def test_optimizer_requests():
    model = onnx.load(MODEL)
    with pytest.warns(ktc.AppliedOtherwise) as told:
        made = kneronnxopt.optimize(
            model, convert_f16=False, opt_matmul=True, defuse_gaps=True, skip_fuse_qkv=True, clear_shapes=True,
            skipped_optimizers=["fuse_bn_into_conv", "extract_constant_to_initializer"],
        )  # fmt: skip
    names = {str(w.message).split(":")[0] for w in told}
    assert names == {"convert_f16", "opt_matmul", "defuse_gaps", "skipped_optimizers"}
    assert sum(n.op_type == "BatchNormalization" for n in made.graph.node) == 6
    assert kneronnxopt.onnx_vs_onnx(model, made).alike


def test_the_older_optimizer(tmp_path):
    model = onnx.load(MODEL)
    kept = onnx_optimizer.onnx2onnx_flow(model, disable_fuse_bn=True)
    assert any(n.op_type == "BatchNormalization" for n in kept.graph.node)
    assert not any(n.op_type == "BatchNormalization" for n in onnx_optimizer.torch_exported_onnx_flow(model).graph.node)
    with pytest.warns(ktc.AppliedOtherwise, match="opt_720"):
        onnx_optimizer.onnx2onnx_flow(model, opt_720=True)
    with pytest.raises(kx.ConfigError, match="not public"):
        onnx_optimizer.onnx2onnx_flow(model, rgba2yynn=True)
    with pytest.raises(kx.ModelError, match="no other order of colours"):
        onnx_optimizer.onnx2onnx_flow(model, bgr=True)
    with pytest.raises(AttributeError, match="edit_onnx"):
        onnx_optimizer.delete_nodes(model, [])


def test_preprocessing_moves_into_the_model(tmp_path):
    graph = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        net (float[1, 3, 4, 4] x) => (float[1, 48] y) {
          s = Sigmoid(x)
          t = Softmax <axis = 1>(s)
          y = Flatten(t)
        }""")
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 4)).astype(np.float32)

    def run(model, values):
        onnx.save(model, tmp_path / "net.onnx")
        return kx.kneron_inference([values], ["x"], onnx_file=tmp_path / "net.onnx")[0]

    plain = run(graph, x)
    turned = onnx_optimizer.onnx2onnx_flow(graph, bgr=True, norm=True)
    np.testing.assert_allclose(run(turned, np.ascontiguousarray(x[:, ::-1]) - 0.5), plain, atol=1e-6)
    scaled = onnx.ModelProto()
    scaled.CopyFrom(graph)
    assert onnx_optimizer.pixel_modify(scaled, [1 / 255] * 3, [0.5, 0.25, 0]) is scaled
    onnx.checker.check_model(scaled, full_check=True)
    pixels = (x - np.reshape([0.5, 0.25, 0], (3, 1, 1)).astype(np.float32)) * 255
    np.testing.assert_allclose(run(scaled, pixels), plain, atol=1e-5)
    with pytest.raises(kx.ModelError, match="2 factors and 3 summands for 3 channels"):
        onnx_optimizer.pixel_modify(scaled, [1, 1], [0, 0, 0])
    with pytest.warns(ktc.AppliedOtherwise, match=r"outputs s .*Softmax"):
        cut = onnx_optimizer.onnx2onnx_flow(graph, eliminate_tail=True)
    assert [n.op_type for n in cut.graph.node] == ["Sigmoid"] and [o.name for o in cut.graph.output] == ["s"]
