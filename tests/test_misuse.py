"""Forty and more kinds of misuse at the command line: one screen that says what, where and how to mend it.

Each case makes what it needs in an empty folder and returns the arguments; nothing else may lie there afterwards. What
the API makes of the commoner ones is in `test_bad_input.py`.
"""

import os
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tiny import tiny_data, tiny_folder, tiny_npz, tiny_onnx

import knerex_jax as kx
from knerex_jax.cli import main
from knerex_jax.files import output_folder

Case = tuple[Callable[[Path], list[object]], str]
PTQ = ["ptq", "--p-output", "out"]


def ptq(f: Path, *more: object, data: object = None, model: object = None) -> list[object]:
    model = tiny_onnx(f) if model is None else model
    return [*PTQ, "--p-onnx", model, "--np-txt", tiny_npz(f / "d.npz", 4) if data is None else data, *more]


def npz(f: Path, **arrays: np.ndarray) -> Path:
    np.savez(f / "data.npz", **arrays)
    return f / "data.npz"


def spoiled(change: Callable[[onnx.ModelProto], object]) -> Callable[[Path], list[object]]:
    """Runs on the tiny model with something changed."""

    def make(f: Path) -> list[object]:
        path = tiny_onnx(f)
        proto = onnx.load(path)
        change(proto)
        path.write_bytes(proto.SerializeToString())
        return ptq(f, model=path)

    return make


def text(f: Path, name: str, content: str) -> Path:
    (f / name).write_text(content)
    return f / name


def images(f: Path, *files: tuple[str, bytes | tuple[int, int]]) -> Path:
    folder = f / "images"
    folder.mkdir()
    for name, what in files:
        if isinstance(what, bytes):
            (folder / name).write_bytes(what)
        else:
            Image.new("RGB", what).save(folder / name)
    return folder


def weight(proto: onnx.ModelProto) -> onnx.TensorProto:
    return next(t for t in proto.graph.initializer if len(t.dims) == 4)


def nan_weight(proto: onnx.ModelProto) -> None:
    array = numpy_helper.to_array(weight(proto)).copy()
    array[0, 0, 0, 0] = np.nan
    weight(proto).CopyFrom(numpy_helper.from_array(array, weight(proto).name))


def lost_external(proto: onnx.ModelProto) -> None:
    held = weight(proto)
    held.ClearField("raw_data")
    held.data_location = TensorProto.EXTERNAL
    held.external_data.add(key="location", value="weights.bin")


def huge(proto: onnx.ModelProto) -> None:
    for dim in proto.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = 1 << 20
    del proto.graph.value_info[:]
    for dim in proto.graph.output[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = 1 << 20


def open_shape(proto: onnx.ModelProto) -> None:
    for dim, name in zip(proto.graph.input[0].type.tensor_type.shape.dim[2:], "hw", strict=True):
        dim.dim_param = name
    del proto.graph.value_info[:]
    for dim, name in zip(proto.graph.output[0].type.tensor_type.shape.dim[2:], "hw", strict=True):
        dim.dim_param = name


def two_inputs(f: Path) -> Path:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 4, 4]) for n in ("left", "right", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["left", "right"], ["y"])], "two", values[:2], values[2:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), f / "two.onnx")
    return f / "two.onnx"


def small(count: int) -> np.ndarray:
    return np.zeros((count, 3, 4, 4), np.float32)


def file_as_folder(f: Path) -> list[object]:
    text(f, "out", "a file")
    return ptq(f)


def damaged(f: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    """A bie of which some bytes are other ones."""
    (f / name).write_bytes(change(BUILT["bie"].read_bytes()))
    return f / name


BUILT: dict[str, Path] = {}
X = tiny_data(4)["x"]
CASES: dict[str, Case] = {
    # the model
    "no such model": (lambda f: ptq(f, model="nowhere.onnx"), "nowhere.onnx"),
    "model is a folder": (lambda f: ptq(f, model=f), "cannot read the model"),
    "model is text": (lambda f: ptq(f, model=text(f, "m.onnx", "version https://git-lfs")), "not an ONNX model"),
    "model is empty": (lambda f: ptq(f, model=text(f, "m.onnx", "")), "no ONNX graph"),
    "NaN weights": (spoiled(nan_weight), "NaN"),
    "external weights missing": (spoiled(lost_external), "weights.bin"),
    "dimensions beyond any memory": (spoiled(huge), "1048576"),
    "open shape": (lambda f: [*spoiled(open_shape)(f), "--np-txt", tiny_folder(f / "a", 2)], "--input-shape x:1"),
    "opset too new": (spoiled(lambda m: setattr(m.opset_import[0], "version", 99)), "opset 99"),
    "opset too old": (spoiled(lambda m: setattr(m.opset_import[0], "version", 4)), "opset 4"),
    "unknown operator": (spoiled(lambda m: setattr(m.graph.node[1], "op_type", "Frobnicate")), "Frobnicate"),
    "custom operator": (spoiled(lambda m: setattr(m.graph.node[1], "domain", "my.domain")), "my.domain"),
    # the data
    "no such data": (lambda f: ptq(f, data="nowhere"), "no such file or folder"),
    "no such function": (lambda f: ptq(f, data="nowhere:data"), "module:function"),
    "data of an unknown kind": (lambda f: ptq(f, data=text(f, "d.csv", "1,2")), ".csv"),
    "text values": (lambda f: ptq(f, data=npz(f, x=np.full((4, 3, 8, 8), "a"))), "text values"),
    "pickled objects": (lambda f: ptq(f, data=npz(f, x=np.array([None, 1], object))), "pickle"),
    "wrong layout": (lambda f: ptq(f, "--layout", "NCHW", data=npz(f, x=X.transpose(0, 2, 3, 1))), "(1, 3, 8, 8)"),
    "wrong rank": (lambda f: ptq(f, data=npz(f, x=X[:, 0])), "does not fit"),
    "wrong size": (lambda f: ptq(f, data=npz(f, x=X[..., :7])), "does not fit"),
    "unknown layout": (lambda f: ptq(f, "--layout", "HWC"), "NHWC"),
    "missing input": (lambda f: ptq(f, model=two_inputs(f), data=npz(f, left=small(2))), "'right'"),
    "extra input": (lambda f: ptq(f, data=npz(f, x=X, y=X)), "no input 'y'"),
    "misspelt input": (lambda f: ptq(f, model=two_inputs(f), data=npz(f, left=small(2), rihgt=small(2))), "'right'?"),
    "counts differ": (lambda f: ptq(f, model=two_inputs(f), data=npz(f, left=small(2), right=small(3))), "left: 2"),
    "no memory left": (lambda f: ptq(f, data="test_misuse:no_memory"), "batch_size"),
    "no samples": (lambda f: ptq(f, data=npz(f, x=X[:0])), "no samples"),
    "empty folder": (lambda f: ptq(f, data=images(f)), "no samples"),
    "infinite values": (lambda f: ptq(f, data=npz(f, x=np.where(X > 1, np.inf, X))), "infinity"),
    "damaged npz": (lambda f: ptq(f, data=text(f, "d.npz", "PK no")), "unreadable"),
    "mixed sizes": (lambda f: mixed_sizes(f), "does not fit"),
    "mixed kinds of files": (lambda f: ptq(f, data=images(f, ("a.png", (8, 8)), ("b.npy", b""))), "arrays and images"),
    "unreadable image": (
        lambda f: ptq(f, "--preprocess", "kneron", "--layout", "NCHW", data=images(f, ("a.jpg", b"\xff\xd8 no"))),
        "a.jpg",
    ),
    "images without preprocessing": (lambda f: ptq(f, data=images(f, ("a.png", (8, 8)))), "kneron, tensorflow"),
    "unknown preset": (lambda f: ptq(f, "--preprocess", "kneon", data=images(f, ("a.png", (8, 8)))), "kneron"),
    # the options
    "misspelt option": (lambda f: ptq(f, "--data-analysis-ptc", "1"), "--data-analysis-pct"),
    "misspelt command": (lambda f: ["evalute", "m.onnx"], "evaluate"),
    "misspelt value": (lambda f: ptq(f, "--datapath-range-method", "percentag"), "did you mean 'percentage'"),
    "wrong platform": (lambda f: ptq(f, "--platform", "721"), "520, 530, 630, 720, 730"),
    "int16 on 520": (lambda f: ptq(f, "--platform", "520", "--weight-bitwidth-mode", "int16"), "520 has no int16"),
    "mix on 520": (lambda f: ptq(f, "--platform", "520", "--datapath-bitwidth-mode", "mix light"), "no 16 bits to mix"),
    "mixbw beside int8": (lambda f: ptq(f, "--datapath-bitwidth-mode", "mixbw"), "use (mixbw, int16)"),
    "two budgets": (lambda f: ptq(f, "--max-ms", "1", "--max-mb", "1"), "give one of them"),
    "mode out of range": (lambda f: ptq(f, "--mode", "7"), "between 0 and 3"),
    "batch size 0": (lambda f: ptq(f, "--batch-size", "0"), "at least 1"),
    "no threads": (lambda f: ptq(f, "--data-analysis-threads", "-2"), "at least 1"),
    "share above 1": (lambda f: ptq(f, "--data-analysis-pct", "99.9"), "between 0 and 1"),
    "not a number": (lambda f: ptq(f, "--data-analysis-pct", "nan"), "between 0 and 1"),
    "cuts that contradict": (lambda f: ptq(f, "--percentage-16b", "0.9"), "percentage_16b"),
    "text for a number": (lambda f: ptq(f, "--mode", "two"), "not a valid integer"),
    "negative shape": (lambda f: ptq(f, "--input-shape", "x:1,-3,8,8"), "input_shape"),
    "shape of no input": (lambda f: ptq(f, "--input-shape", "y:1,3,8,8"), "y"),
    "unknown node in quan_config": (lambda f: ptq(f, "--quan-config", '{"cnov": {"radix": 5}}'), "conv"),
    "unknown key in quan_config": (lambda f: ptq(f, "--quan-config", '{"conv*": {"radiks": 5}}'), "radix"),
    "quan_config is no JSON": (lambda f: ptq(f, "--quan-config", "{radix"), "no valid JSON"),
    "version of the nef": (lambda f: ptq(f, "--model-version", "12345"), "hexadecimal"),
    "only a model": (lambda f: [*PTQ, "--p-onnx", tiny_onnx(f)], "--np-txt"),
    # config and sweep files
    "no such config": (lambda f: ["ptq", "--config", "none.toml"], "none.toml"),
    "config is no TOML": (lambda f: ["ptq", "--config", text(f, "c.toml", "platform: 720")], "no valid TOML"),
    "config is binary": (lambda f: ["ptq", "--config", tiny_npz(f / "c.toml.npz", 1)], "no text"),
    "misspelt key in a config": (lambda f: ["ptq", "--config", text(f, "c.toml", "plattform = 720")], "'platform'"),
    "list for a number": (lambda f: ["ptq", "--config", text(f, "c.toml", "mode = [1]")], "between 0 and 3"),
    "sweep without a grid": (lambda f: ["sweep", text(f, "s.toml", "[base]\nmode = 1")], "[grid]"),
    "misspelt option in a sweep": (
        lambda f: ["sweep", text(f, "s.toml", "[grid]\noutlier_fctor = [1]")], "'outlier_factor'",
    ),
    "no list in a sweep": (lambda f: ["sweep", text(f, "s.toml", "[grid]\nmode = 1")], "mode = [1]"),
    # the output folder
    "output is a file": (file_as_folder, "cannot write"),
    "output below a file": (lambda f: [*ptq(f), "--p-output", text(f, "a", "") / "b"], "cannot write"),
    # artefacts
    "no such bie": (lambda f: ["verify", "none.bie"], "none.bie"),
    "bie of another version": (
        lambda f: ["verify", damaged(f, "a.bie", lambda d: d[:16] + b"\x09" + d[17:])], "version 9",
    ),
    "bie cut short": (lambda f: ["verify", damaged(f, "a.bie", lambda d: d[:-9])], "cut short"),
    "bie altered": (lambda f: ["verify", damaged(f, "a.bie", lambda d: d[:-9] + bytes(9))], "altered"),
    "nef as bie": (lambda f: ["nef", "compile", BUILT["nef"], "-o", "out"], "not a bie"),
    "bie as nef": (lambda f: ["nef", "info", BUILT["bie"]], "not a nef"),
    "onnx as bie": (lambda f: ["nef", "compile", tiny_onnx(f), "-o", "out"], "not a bie"),
    "unknown entry of a nef": (lambda f: ["nef", "get", BUILT["nef"], "models.3"], "the entries there are"),
    "one id twice": (lambda f: ["nef", "combine", BUILT["nef"], BUILT["nef"], "-o", "out"], "32769"),
    "wrong key": (lambda f: wrong_key(f), "key"),
    "key of a wrong length": (lambda f: ["nef", "combine", BUILT["nef"], "--key-file", text(f, "k", "no")], "32 bytes"),
    "whatif of no result": (lambda f: ["whatif", f, "--data", "d.npz"], "model_fx_report.json"),
    "check of no model": (lambda f: ["check", "none.onnx"], "none.onnx"),
    "evaluate of no model": (lambda f: ["evaluate", text(f, "m.pth", "x")], "m.pth"),
}  # fmt: skip


def no_memory() -> list[np.ndarray]:
    """Calibration data that are too large."""
    raise MemoryError


def mixed_sizes(f: Path) -> list[object]:
    folder = tiny_folder(f / "arrays", 3)
    np.save(folder / "3.npy", X[0, :, :5])
    return ptq(f, data=folder)


def wrong_key(f: Path) -> list[object]:
    (f / "right").write_bytes(b"r" * 32)
    (f / "wrong").write_bytes(b"w" * 32)
    with pytest.raises(SystemExit):
        main(["nef", "combine", str(BUILT["nef"]), "-o", str(f / "locked"), "--key-file", str(f / "right"), "-q"])
    return ["nef", "extract", f / "locked/models_720.nef", "-o", "out", "--key-file", f / "wrong"]


@pytest.fixture(scope="module", autouse=True)
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    result = kx.run_ptq(p_onnx=tiny_onnx(folder), np_txt=tiny_data(4), p_output=folder / "out", mode=1)
    BUILT.update(result.paths)
    yield
    BUILT.clear()


def run(arguments: list[object], capsys) -> tuple[int, str]:
    """(exit code, what was printed)."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    return int(caught.value.code or 0), "".join(capsys.readouterr())


def files(folder: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*")}


def refuse(arguments: list[object], words: str, folder: Path, capsys) -> None:
    """It is refused on one screen, and everything in the folder is as before."""
    before = files(folder)
    code, said = run(arguments, capsys)
    assert code in (1, 2), said
    assert words in " ".join(said.split()), said
    assert "Traceback" not in said and len(said.splitlines()) <= 25, said
    if code == 1:
        assert "where:" in said and "fix:" in said, said
    assert files(folder) == before


@pytest.mark.parametrize("case", CASES)
def test_misuse_is_one_screen_with_a_fix_and_leaves_nothing(case, tmp_path, capsys, monkeypatch):
    make, words = CASES[case]
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KNEREX_NEF_KEY", raising=False)
    refuse(make(tmp_path), words, tmp_path, capsys)


def test_there_are_forty_kinds():
    assert len(CASES) >= 40


def old_result(folder: Path) -> None:
    """An output folder with an earlier result."""
    shutil.copytree(BUILT["bie"].parent, folder / "out")


def test_no_space_left(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ptq(tmp_path, "--mode", "1")
    old_result(tmp_path)
    before = (tmp_path / "out/tiny.bie").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))  # a file that grows beyond fails as on a full disk
    try:
        code, said = run(arguments, capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 1 and "cannot write" in said and "fix:" in said and "Traceback" not in said
    assert (tmp_path / "out/tiny.bie").read_bytes() == before
    assert not [p for p in (tmp_path / "out").iterdir() if p.name.startswith(".")]


def test_read_only_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, locked = ptq(tmp_path), tmp_path / "out"
    locked.mkdir()
    if os.geteuid() == 0:  # whom permissions do not stop
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", locked], check=False, capture_output=True)
        if mounted.returncode:  # without that right root can lock no folder: nothing to refuse
            pytest.skip("this root may not mount")
    else:
        locked.chmod(0o555)
    try:
        refuse(arguments, "cannot write", tmp_path, capsys)
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", locked], check=True)
        else:
            locked.chmod(0o755)


def test_two_runs_into_one_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ptq(tmp_path)
    with output_folder(tmp_path / "out"):
        refuse(arguments, f"another run is writing here (process {os.getpid()}", tmp_path, capsys)
