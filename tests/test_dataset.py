"""Scores over labelled data, against plain loops over all samples at once."""

import numpy as np
import pytest
from tiny import tiny_data, tiny_npz, tiny_onnx

import knerex_jax as kx
from knerex_jax.cli import main
from knerex_jax.metrics import snr_db

COUNT = 11


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return kx.FloatModel.load(tiny_onnx(tmp_path_factory.mktemp("dataset")))


@pytest.fixture(scope="module")
def data():
    return tiny_data(COUNT)["x"]


@pytest.fixture(scope="module")
def outputs(model, data):
    (found,) = model.run({"x": data}, batch_size=4).values()  # floats depend on the shape of a batch
    return found


@pytest.fixture(scope="module")
def targets(outputs):
    return outputs + np.random.default_rng(2).normal(size=outputs.shape).astype(np.float32)


def test_names_mean_what_they_say(model, data, outputs, targets):
    found = kx.evaluate_dataset(model, data, ["mse", "mae", "snr_db"], labels=targets, batch_size=4)
    assert found.samples == COUNT and found.kind == "float"
    noise = outputs.astype(np.float64) - targets
    assert found.scores["mse"] == pytest.approx((noise**2).mean(), rel=1e-12)
    assert found.scores["mae"] == pytest.approx(abs(noise).mean(), rel=1e-12)
    assert found.scores["snr_db"] == pytest.approx(snr_db(targets, outputs), rel=1e-9)


def test_top_counts_the_label_among_the_largest(model, data, outputs):
    flat = outputs.reshape(COUNT, -1)
    places = np.argsort(-flat, axis=1, kind="stable")
    labels = [int(row[0 if k % 2 else 3]) for k, row in enumerate(places)]
    found = kx.evaluate_dataset(model, data, ("top1", "top5"), labels=labels, batch_size=4).scores
    assert found == {"top1": 5 / COUNT, "top5": 1.0}


def test_no_batch_size_and_order_changes_a_sum(model, data):
    def odd(outputs, labels):
        return [1e17 if k == 3 else -1e17 if k == 8 else 0.1 for k in labels]

    exact = 9 * 0.1 / COUNT
    for batch_size in (1, 4, 16):
        assert kx.evaluate_dataset(model, data, odd, labels=range(COUNT), batch_size=batch_size).scores["odd"] == (
            pytest.approx(exact, rel=1e-15)
        )
    back = kx.evaluate_dataset(model, data[::-1].copy(), odd, labels=range(COUNT)[::-1], batch_size=4)
    assert back.scores["odd"] == pytest.approx(exact, rel=1e-15)


def pairs(data, labels):
    return lambda: zip(data, labels, strict=True)


def batches(data, labels):
    return ((data[k : k + 3], labels[k : k + 3]) for k in range(0, len(data), 3))


def named(data, labels):
    return [({"x": x[None]}, y) for x, y in zip(data, labels, strict=True)]


@pytest.mark.parametrize("form", [pairs, batches, named])
def test_pairs_come_one_by_one_or_in_batches(form, model, data, targets):
    whole = kx.evaluate_dataset(model, data, "mse", labels=targets, batch_size=4)
    assert kx.evaluate_dataset(model, form(data, targets), "mse", batch_size=4) == whole


def test_data_are_read_as_they_are_needed(model, data):
    drawn, held = [], []

    def endless():
        for k in range(200):
            drawn.append(k)
            yield data[k % COUNT], k

    def last(outputs, labels):
        held.append(len(drawn) - labels[-1])
        return np.zeros(len(labels))

    kx.evaluate_dataset(model, endless, last, batch_size=4, threads=2)
    assert len(held) == 50 and max(held) <= 1 + 4 + 2, "a batch and the threads' work ahead, whatever the data's size"


def test_what_cannot_be_scored_is_told(model, data):
    with pytest.raises(kx.ConfigError, match="did you mean 'top1'"):
        kx.evaluate_dataset(model, data, "top_1", labels=range(COUNT))
    with pytest.raises(kx.ModelError, match="11 samples and 3 labels"):
        kx.evaluate_dataset(model, data, "top1", labels=[1, 2, 3])
    with pytest.raises(kx.ConfigError, match="nothing of labels"):
        kx.evaluate_dataset(model, "data.npz", "top1")
    with pytest.raises(kx.ModelError, match="not a pair"):
        kx.evaluate_dataset(model, list(data), "top1")
    with pytest.raises(kx.ModelError, match="3 samples has 2 labels"):
        kx.evaluate_dataset(model, [(data[:3], [1, 2])], "top1")
    with pytest.raises(kx.ConfigError, match="not finite"):
        kx.evaluate_dataset(model, data, lambda o, y: [float("nan")] * len(y), labels=range(COUNT))
    with pytest.raises(kx.ConfigError, match=r"shape \(\) for 11 samples"):
        kx.evaluate_dataset(model, data, lambda o, y: 1.0, labels=range(COUNT))
    with pytest.raises(kx.HookError, match="ZeroDivisionError"):
        kx.evaluate_dataset(model, data, lambda o, y: 1 / 0, labels=range(COUNT))
    with pytest.raises(kx.ModelError, match="no samples"):
        kx.evaluate_dataset(model, [], "top1")


def test_the_command(tmp_path, monkeypatch, capsys, data):
    monkeypatch.chdir(tmp_path)
    tiny_onnx(tmp_path), tiny_npz(tmp_path / "d.npz", COUNT)
    (tmp_path / "labels.txt").write_text("\n".join(map(str, range(COUNT))))
    with pytest.raises(SystemExit) as ended:
        main("score tiny.onnx --data d.npz --labels labels.txt --metric top1 --metric top5 --batch-size 4".split())
    assert ended.value.code == 0
    assert "tiny (float), 11 samples: top1 " in capsys.readouterr().out
