"""Pictures through hooks and models: what is written, in which order, and what is said of faults."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import Net, samples
from PIL import Image
from planning import fixed_model, plan

import knerex_jax as kx
from knerex_jax import embedded
from knerex_jax.e2e.draw import draw_results, side_by_side
from knerex_jax.e2e.ready import top1_accuracy, top5
from knerex_jax.e2e.results import agreement, to_json

COUNT = 5
HOOKS = (Path(__file__).parent / "digit_hooks.py").read_text()


@pytest.fixture(scope="module")
def loaded(run):
    """The three models."""
    return {
        "onnx": kx.FloatModel.load(embedded.model_path()), "bie": kx.FixedModel.load(run.paths["bie"]),
        "nef": kx.NpuModel.load(run.paths["nef"]),
    }  # fmt: skip


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder of pictures of digits, and the labels by name."""
    folder = tmp_path_factory.mktemp("digits")
    inputs, labels = embedded.evaluation()
    for k in range(COUNT):
        pixels = ((inputs["input"][k, 0] + 0.5) * 256).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"digit_{k}.png")
    return folder, {f"digit_{k}.png": str(labels[k]) for k in range(COUNT)}


@pytest.fixture
def hooks(tmp_path, monkeypatch):
    """The hooks as a module of the current folder, under a name of its own."""
    name = f"hooks_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(HOOKS)
    monkeypatch.chdir(tmp_path)
    return name


def pre(picture):
    return np.asarray(picture.convert("L"), np.float32)[None] / 256 - 0.5


def test_three_models_side_by_side(loaded, digits, hooks, tmp_path):
    folder, labels = digits
    done = []
    found = kx.simulate_images(
        folder, tmp_path / "out", pre=f"{hooks}:pre", post=f"{hooks}:boxes", batch_size=2, **loaded,
        metric=lambda results, true: float(np.mean([r[0].label == t for r, t in zip(results, true, strict=True)])),
        labels=labels, progress=lambda *args: done.append(args),
    )  # fmt: skip
    assert list(found.models) == ["float", "fixed", "nef"] and found.pictures == found.nef_equals_fixed == COUNT
    assert done[-1] == ("pictures", COUNT, COUNT) and len(done) == COUNT
    assert found.metric == {"float": 1.0, "fixed": 1.0, "nef": 1.0}
    inputs = {"input": embedded.evaluation()[0]["input"][:COUNT]}
    outputs = {k: m.run(inputs)["logits"] for k, m in loaded.items()}
    pooled = kx.metrics.snr_db(outputs["onnx"], outputs["bie"])
    assert found.snr_db["fixed"]["logits"] == found.snr_db["nef"]["logits"] == pytest.approx(pooled, abs=1e-3)
    rows = list(found.rows())
    assert [r["picture"] for r in rows] == [f"digit_{k}.png" for k in range(COUNT)]
    for k, row in enumerate(rows):
        assert list(row["results"]) == ["float", "fixed", "nef"] and row["nef_equals_fixed"]
        ours = kx.metrics.snr_db(outputs["onnx"][k], outputs["bie"][k])
        assert row["snr_db"]["fixed"] == pytest.approx(ours, abs=1e-3)
        (box,) = row["results"]["fixed"]
        assert box["label"] == labels[row["picture"]] and box["xyxy"] == [4, 4, 24, 24] and box["points"] == [[14, 14]]
        assert box["score"] == pytest.approx(float(outputs["bie"][k].max()))
    assert json.loads((found.folder / "summary.json").read_text())["agreement"] == {"fixed": 1.0, "nef": 1.0}
    table = list(csv.DictReader((found.folder / "results.csv").read_text().splitlines()))
    assert [r["model"] for r in table[:3]] == ["float", "fixed", "nef"] and len(table) == 3 * COUNT
    assert [p.name for p in found.drawn] == [f"{k:06d}_digit_{k}.png" for k in range(COUNT)]
    sheet = np.asarray(Image.open(found.drawn[0]))
    column = (sheet.shape[1] - 12) // 3
    assert not np.array_equal(sheet[:, :column], sheet[:, column + 6 : 2 * column + 6])  # titles and scores differ


def test_a_hook_may_be_a_callable_and_give_a_context(loaded, digits, hooks, tmp_path):
    seen = []

    def post(outputs, context):
        seen.append((context, outputs["logits"].shape))
        return top5(outputs, context)

    found = kx.simulate_images(
        digits[0], tmp_path / "o", pre=f"{hooks}:pre_with_context", post=post, bie=loaded["bie"], draw=False
    )
    assert seen == [("context", (1, 10))] * COUNT
    assert found.snr_db == found.agreement == {} and found.nef_equals_fixed is None and not found.drawn
    assert not (tmp_path / "o" / "pictures").exists()


def test_a_preset_prepares_as_calibration_does(loaded, digits, tmp_path):
    found = kx.simulate_images(
        digits[0], tmp_path / "o", pre="kneron", post=top5, onnx=loaded["onnx"],
        metric=top1_accuracy, labels=digits[1],
    )  # fmt: skip
    assert found.metric == {"float": 1.0}


def test_drawing_changes_the_picture_where_a_box_is():
    picture = Image.new("RGB", (300, 200), "black")
    plain = np.asarray(draw_results(picture, []))
    made = np.asarray(draw_results(picture, [kx.Box("cat", 0.5, (100, 50, 200, 150), ((150, 100),))]))
    assert plain.shape == made.shape == (200, 300, 3) and not plain.any()
    changed = made.any(axis=2)
    assert changed[50, 100:200].all() and changed[50:150, 200].all() and changed[100, 150]
    assert not changed[:30].any() and not changed[160:].any() and not changed[70:90, 120:140].any()
    heated = np.asarray(draw_results(picture, [kx.HeatMap(np.array([[0.0, 1.0]]))]))
    assert heated[100, 290, 0] > 100 and heated[100, 5, 0] < 20
    assert np.asarray(draw_results(picture, [kx.Label("cat", 0.9)])).any()
    assert draw_results(Image.new("RGB", (1000, 500)), []).size == (512, 256)
    sheet = side_by_side([("a", Image.new("RGB", (10, 20), "red")), ("b", Image.new("RGB", (10, 20), "blue"))])
    assert sheet.getpixel((5, 30)) == (255, 0, 0) and sheet.getpixel((20, 30)) == (0, 0, 255)


def test_agreement_by_kind():
    a, b = kx.Box("a", 1, (0, 0, 10, 10)), kx.Box("a", 1, (1, 0, 11, 10))
    assert agreement([a], [b]) == 1 and agreement([], []) == 1 and agreement([a], []) == 0
    assert agreement([a], [kx.Box("b", 1, a.xyxy)]) == 0
    assert agreement([a, kx.Box("a", 1, (50, 50, 60, 60))], [b]) == pytest.approx(2 / 3)
    assert agreement([a], [a, a]) == pytest.approx(2 / 3)  # one box is found once
    assert agreement([kx.Label("x", 1), kx.Label("y", 0)], [kx.Label("x", 0.1)]) == 1
    assert agreement([kx.HeatMap(np.array([0, 1.0]))], [kx.HeatMap(np.array([1.0, 1.0]))]) == 0.5
    assert agreement("text", "test") == 0 and agreement({"x": 1}, {"x": np.int64(1)}) == 1
    assert to_json({"a": np.float32(1.5), "b": (kx.Label("c", 1),)})["b"] == [
        {"type": "label", "name": "c", "score": 1}
    ]
    with pytest.raises(TypeError, match="object"):
        to_json(object())


def test_a_failing_hook_names_its_line_and_the_picture(loaded, digits, hooks, tmp_path):
    with pytest.raises(kx.HookError) as caught:
        kx.simulate_images(digits[0], tmp_path / "o", pre=pre, post=f"{hooks}:broken", bie=loaded["bie"])
    line = next(k for k, text in enumerate(HOOKS.splitlines(), 1) if "scores[11]" in text)
    for word in ("IndexError", f"post={hooks}:broken", "digit_0.png", f"{hooks}.py:{line} in broken", "scores[11]"):
        assert word in str(caught.value)
    assert not list((tmp_path / "o").iterdir())


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"pre": "digit_hooks"}, kx.ConfigError, ["neither a function nor a preset", "pytorch"]),
        ({"pre": "no_such_module:pre"}, kx.ConfigError, ["no module 'no_such_module'", "current folder"]),
        ({"post": "knerex_jax.e2e.ready:top6"}, kx.ConfigError, ["no 'top6'", "did you mean 'top5'"]),
        ({"post": lambda outputs, size: [object()]}, kx.HookError, ["no form in JSON", "digit_0.png"]),
        ({"pre": lambda picture: np.zeros((3, 5))}, kx.HookError, ["shape (3, 5)", "digit_0.png", "(1, 28, 28)"]),
        ({"pre": lambda picture: {"x": 0}}, kx.HookError, ["inputs x", "return input"]),
        ({"images": "no_such_folder"}, kx.ModelError, ["no such folder"]),
        ({"images": []}, kx.ModelError, ["no pictures"]),
        ({"metric": top1_accuracy}, kx.ConfigError, ["needs labels"]),
        ({"metric": top1_accuracy, "labels": {"digit_0.png": 1}}, kx.ConfigError, ["no label", "digit_1.png"]),
        ({"bie": None}, kx.ConfigError, ["no model"]),
    ],
)
def test_faults_are_said(loaded, digits, tmp_path, changed, error, words):
    asked = {"images": digits[0], "pre": pre, "post": top5, "bie": loaded["bie"], **changed}
    with pytest.raises(error) as caught:
        kx.simulate_images(asked.pop("images"), tmp_path / "o", draw=False, **asked)
    for word in [*words, "fix:"]:
        assert word in str(caught.value), str(caught.value)
    assert not (tmp_path / "o").exists() or not list((tmp_path / "o").iterdir())


def test_a_module_that_fails_is_no_missing_module(loaded, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fails_to_import.py").write_text("import json\nimport no_such_thing\n")
    (tmp_path / "no_syntax.py").write_text("def pre(:\n")
    for module, words in (("fails_to_import", "fails_to_import.py:2"), ("no_syntax", "no_syntax.py:1")):
        with pytest.raises(kx.HookError, match=words):
            kx.simulate_images(digits[0], tmp_path / "o", pre=f"{module}:pre", post=top5, bie=loaded["bie"])


def test_a_bad_picture_stops_or_is_skipped_by_name(loaded, digits, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "a.png").write_bytes((digits[0] / "digit_0.png").read_bytes())
    (folder / "b.png").write_bytes(b"no picture")
    asked = {"pre": pre, "post": top5, "bie": loaded["bie"], "draw": False}
    with pytest.raises(kx.ModelError, match=r"(?s)unreadable.*b\.png.*skip_bad"):
        kx.simulate_images(folder, tmp_path / "o", **asked)
    assert not list((tmp_path / "o").iterdir())
    found = kx.simulate_images(folder, tmp_path / "o", skip_bad=True, **asked)
    assert found.pictures == 1 and list(found.skipped) == [str(folder / "b.png")]
    assert json.loads((tmp_path / "o" / "summary.json").read_text())["skipped"] == found.skipped
    with pytest.raises(kx.ModelError, match="no picture could be read"):
        kx.simulate_images([folder / "b.png"], tmp_path / "o2", skip_bad=True, **asked)


def test_models_that_do_not_belong_together(loaded, digits, tmp_path):
    net = Net({"x": (1, 3, 8, 8)})
    model = net.model(net.conv("x", 2))
    other = fixed_model(plan(model, samples(model, 2)))
    with pytest.raises(kx.ModelError, match="different inputs"):
        kx.simulate_images(digits[0], tmp_path, pre=pre, post=top5, onnx=loaded["onnx"], bie=other)
