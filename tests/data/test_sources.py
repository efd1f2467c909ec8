"""Every form of calibration data gives the same batches, and every fault a message."""

import threading
import time

import numpy as np
import pytest
from PIL import Image

from knerex_jax.data.prefetch import run_ahead
from knerex_jax.data.preprocess import Preprocess
from knerex_jax.data.sources import Source, open_source, stack_inputs
from knerex_jax.errors import ConfigError, KnerexError, ModelError
from knerex_jax.graph.ir import TensorType

ONE = {"x": TensorType("float32", (1, 3, 4, 5))}
TWO = {"x:0": TensorType("float32", (1, 3, 4, 5)), "ids": TensorType("int64", (1, 6))}
RNG = np.random.default_rng(0)
X = RNG.standard_normal((7, 3, 4, 5)).astype(np.float32)
IDS = RNG.integers(0, 100, (7, 6))


def _read(source: Source, batch_size=3, threads=2):
    batches = list(source.batches(batch_size, threads))
    assert [len(next(iter(b.values()))) for b in batches] == [3, 3, 1]
    return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}


def _expect(source, names=("x",), again=True):
    for _ in range(2 if again else 1):
        read = _read(source)
        assert list(read) == list(names)
        np.testing.assert_array_equal(read[names[0]], X)
        assert read[names[0]].dtype == np.float32
        if len(names) > 1:
            np.testing.assert_array_equal(read["ids"], IDS)
            assert read["ids"].dtype == np.int64


@pytest.mark.parametrize(
    "columns",
    [X, list(X), list(X[:, None]), X[:, None], list(X.transpose(0, 2, 3, 1)), X.transpose(0, 2, 3, 1),
     list(X.astype(np.float64)), [x[None] for x in X.transpose(0, 2, 3, 1)], tuple(X), [x.tolist() for x in X]],
    ids=["stacked", "samples", "onnx shapes", "stacked onnx shapes", "hwc", "nhwc", "float64", "nhwc with batch",
         "tuple", "nested lists"],
)  # fmt: skip
def test_dict_of_arrays(columns):
    source = open_source({"x": columns}, ONE)
    assert source.rereadable and source.count == 7
    _expect(source)


def test_one_input_needs_no_name():
    _expect(open_source(X, ONE))
    _expect(open_source(list(X), ONE))
    _expect(open_source(lambda: iter(X), ONE))
    with pytest.raises(ConfigError, match="which of the inputs"):
        open_source(X, TWO)


def test_two_inputs():
    read = _read(open_source({"x:0": X, "ids": IDS.astype(np.float64)}, TWO))
    np.testing.assert_array_equal(read["ids"], IDS)
    assert read["ids"].dtype == np.int64


def test_npz(tmp_path):
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "d.npz", **{"x:0": X, "ids": IDS})
        source = open_source(tmp_path / "d.npz", TWO)
        assert source.rereadable and source.count == 7
        _expect(source, ("x:0", "ids"))
    np.savez(tmp_path / "f.npz", x=np.asfortranarray(X))
    _expect(open_source(str(tmp_path / "f.npz"), ONE))


def test_npy(tmp_path):
    np.save(tmp_path / "d.npy", X.transpose(0, 2, 3, 1))
    _expect(open_source(tmp_path / "d.npy", ONE))


def test_folder_of_npy(tmp_path):
    for i, x in enumerate(X):
        np.save(tmp_path / f"sample{i + 5}.npy", x)
    _expect(open_source(tmp_path, ONE))


@pytest.mark.parametrize("folder", ["x:0", "x_0"])
def test_folders_of_npy(folder, tmp_path):
    for name, rows in ((folder, X[:, None]), ("ids", IDS)):
        (tmp_path / name).mkdir()
        for i, row in enumerate(rows):
            np.save(tmp_path / name / f"{i}.npy", row)
    _expect(open_source(tmp_path, TWO), ("x:0", "ids"))


@pytest.mark.parametrize("layout", ["first", "last"])
def test_folder_of_images(layout, tmp_path):
    pixels = RNG.integers(0, 256, (7, 4, 5, 3), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        folder = tmp_path / ("cats" if i < 4 else "dogs")
        folder.mkdir(exist_ok=True)
        Image.fromarray(picture).save(folder / f"{i}.png")
    types = ONE if layout == "first" else {"x": TensorType("float32", (1, 4, 5, 3))}
    wanted = pixels / np.float32(255)
    for preprocess in ("yolo", Preprocess("yolo"), {"x": "yolo"}):
        read = _read(open_source(tmp_path, types, preprocess=preprocess))["x"]
        np.testing.assert_allclose(read, wanted.transpose(0, 3, 1, 2) if layout == "first" else wanted, rtol=1e-6)


def test_iterator_is_read_once():
    source = open_source(({"x": x} for x in X), ONE)
    assert not source.rereadable and source.count is None
    _expect(source, again=False)


def test_function_is_read_as_often_as_needed():
    source = open_source(lambda: ({"x": x} for x in X), ONE)
    assert source.rereadable and source.count is None
    _expect(source)


def test_a_generator_may_refill_its_buffer():
    def items():
        buffer = np.empty(X.shape[1:], np.float32)
        for x in X:
            buffer[:] = x
            yield {"x": buffer}

    _expect(open_source(items, ONE))


def test_a_model_of_fixed_batch_takes_its_whole_shape():
    types = {"x": TensorType("float32", (2, 3))}
    values = RNG.standard_normal((5, 2, 3)).astype(np.float32)
    for given in (values, list(values), values[:, None]):
        read = next(open_source({"x": given}, types).batches(9))
        np.testing.assert_array_equal(read["x"], values)


def test_layout():
    types = {"x": TensorType("float32", (1, 4, 4, 4))}
    cubes = RNG.standard_normal((2, 4, 4, 4)).astype(np.float32)
    with pytest.raises(ConfigError, match=r'layout="NCHW" or layout="NHWC"'):
        next(open_source({"x": cubes}, types).batches(2))
    np.testing.assert_array_equal(next(open_source({"x": cubes}, types, layout="NCHW").batches(2))["x"], cubes)
    np.testing.assert_array_equal(stack_inputs({"x": cubes}, types)["x"], cubes)
    turned = next(open_source({"x": cubes}, types, layout="NHWC").batches(2))["x"]
    np.testing.assert_array_equal(turned, cubes.transpose(0, 3, 1, 2))
    with pytest.raises(ModelError, match="does not fit"):
        next(open_source({"x": X.transpose(0, 2, 3, 1)}, ONE, layout="NCHW").batches(2))
    with pytest.raises(ConfigError, match="unknown layout"):
        open_source({"x": X}, ONE, layout="CHWN")


def test_channel_last_models_take_channel_last_data():
    types = {"x": TensorType("float32", (1, 4, 5, 3))}
    values = X.transpose(0, 2, 3, 1)
    for layout in (None, "NHWC", "NCHW"):
        np.testing.assert_array_equal(next(open_source({"x": values}, types, layout=layout).batches(7))["x"], values)


def test_stack_inputs_gives_all_samples():
    stacked = stack_inputs({"x": list(X)}, ONE)
    np.testing.assert_array_equal(stacked["x"], X)
    with pytest.raises(ModelError, match="no data for input 'x'"):
        stack_inputs({}, ONE)


def _with(index, value):
    changed = X.copy()
    changed[index, 1, 2, 3] = value
    return changed


@pytest.mark.parametrize(
    ("spec", "types", "message"),
    [
        ({"x": _with(4, np.nan)}, ONE, r"NaN[\s\S]*input 'x', sample 4"),
        ({"x": _with(5, -np.inf)}, ONE, r"infinity[\s\S]*input 'x', sample 5"),
        ({"x": X.astype(np.float64) * 1e300}, ONE, r"beyond float32[\s\S]*sample 0"),
        ({"x": X[:, :2]}, ONE, r"\(2, 4, 5\) does not fit the input \(1, 3, 4, 5\)[\s\S]*channel last \(4, 5, 3\)"),
        ({"x": X[0]}, ONE, r"\(4, 5\) does not fit"),
        ({"y": X}, ONE, r"no input 'y'[\s\S]*inputs: x"),
        ({"Ids": IDS, "x:0": X}, TWO, r"no input 'Ids'[\s\S]*did you mean 'ids'"),
        ({"x:0": X}, TWO, "no data for input 'ids'"),
        ({"x:0": X, "ids": IDS[:5]}, TWO, r"different numbers of samples \(x:0: 7, ids: 5\)"),
        ({"x": []}, ONE, "no samples"),
        (iter(()), ONE, "no samples"),
        (lambda: iter(()), ONE, "no samples"),
        ({"x": X * 1j}, ONE, "complex values"),
        ({"x": X.astype(object)}, ONE, "object values"),
        ({"x": X.astype(str)}, ONE, "text values"),
        ({"x": 3.0}, ONE, "no list of samples"),
        ({"x:0": X, "ids": IDS + 0.5}, TWO, r"not whole numbers of int64[\s\S]*input 'ids', sample 0"),
        ({"x": X * 1000}, {"x": TensorType("uint8", (1, 3, 4, 5))}, "not whole numbers of uint8"),
        (iter([{"y": X[0]}]), ONE, "no input 'y'"),
        ("no/such/place", ONE, "no such file"),
        (5, ONE, "int is no calibration data"),
        (lambda: 5, ONE, "returned int"),
    ],
)
def test_faults(spec, types, message):
    with pytest.raises(KnerexError, match=message):
        list(open_source(spec, types).batches(3))


def test_faults_in_files(tmp_path):
    with pytest.raises(ModelError, match="there are no samples"):
        open_source(tmp_path, ONE)
    with pytest.raises(ModelError, match="sub-folder 'ids'"):
        (tmp_path / "x_0").mkdir()
        np.save(tmp_path / "x_0" / "0.npy", X[0])
        open_source(tmp_path, TWO)
    (tmp_path / "a.txt").touch()
    with pytest.raises(ConfigError, match="'.txt' files"):
        open_source(tmp_path / "a.txt", ONE)
    (tmp_path / "b.npz").write_bytes(b"PK nothing")
    with pytest.raises(ModelError, match="unreadable"):
        open_source(tmp_path / "b.npz", ONE)
    np.savez(tmp_path / "c.npz", y=X)
    with pytest.raises(ModelError, match="no input 'y'"):
        open_source(tmp_path / "c.npz", ONE)
    np.savez(tmp_path / "d.npz", x=np.array([1, None], object))
    with pytest.raises(ModelError, match="unreadable"):
        list(open_source(tmp_path / "d.npz", ONE).batches(2))
    np.savez(tmp_path / "e.npz", x=X)
    data = bytearray((tmp_path / "e.npz").read_bytes())
    data[400:404] = bytes(255 - b for b in data[400:404])
    (tmp_path / "e.npz").write_bytes(data)
    with pytest.raises(ModelError, match="unreadable"):
        list(open_source(tmp_path / "e.npz", ONE).batches(2))


def test_faults_in_folders_of_images(tmp_path):
    Image.new("RGB", (5, 4)).save(tmp_path / "0.png")
    with pytest.raises(ConfigError, match="stated preprocessing"):
        open_source(tmp_path, ONE)
    with pytest.raises(ModelError, match="no input 'y'"):
        open_source(tmp_path, ONE, preprocess={"y": "yolo"})
    with pytest.raises(ModelError, match="takes no images"):
        open_source(tmp_path, {"x": TensorType("float32", (1, 7))}, preprocess="yolo")
    with pytest.raises(ConfigError, match="channel first or channel last"):
        open_source(tmp_path, {"x": TensorType("float32", (1, 3, 4, 3))}, preprocess="yolo")
    (tmp_path / "1.png").write_text("no image")
    with pytest.raises(ModelError, match=r"unreadable image[\s\S]*1\.png"):
        list(open_source(tmp_path, ONE, preprocess="yolo").batches(2))
    np.save(tmp_path / "2.npy", X[0])
    with pytest.raises(ModelError, match="arrays and images"):
        open_source(tmp_path, ONE, preprocess="yolo")


def test_work_ahead_is_ordered_and_bounded():
    started, taken, most = [], 0, 0
    lock = threading.Lock()

    def job(i):
        def work():
            nonlocal most
            with lock:
                started.append(i)
                most = max(most, len(started) - taken)
            time.sleep(0.002 * (i % 3))
            return i

        return work

    for i, result in enumerate(run_ahead(map(job, range(50)), threads=4, ahead=6)):
        assert result == i
        taken += 1
    assert sorted(started) == list(range(50)) and 1 < most <= 7


def test_work_ahead_carries_errors_and_stops():
    started = []

    def job(i):
        def work():
            started.append(i)
            if i == 3:
                raise ModelError("bad", where="sample 3", fix="mend it")
            return i

        return work

    results = run_ahead(map(job, range(1000)), threads=2, ahead=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ModelError, match="sample 3"):
        next(results)
    assert len(started) < 10


def test_an_error_of_the_generator_reaches_the_reader():
    def items():
        yield {"x": X[0]}
        raise RuntimeError("the camera fell off")

    with pytest.raises(RuntimeError, match="camera"):
        list(open_source(items, ONE).batches(4))
