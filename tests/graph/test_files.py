"""The files of a model, and their hash."""

import hashlib

import onnx
from tiny import tiny_onnx

from knerex_jax.graph.files import model_files, model_sha256


def test_a_model_in_one_file_has_the_hash_of_the_file(tmp_path):
    path = tiny_onnx(tmp_path)
    assert model_files(path) == (path,)
    assert model_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_weights_in_another_file_are_part_of_the_model(tmp_path):
    path, weights = tmp_path / "m.onnx", tmp_path / "weights.bin"
    onnx.save(onnx.load(tiny_onnx(tmp_path)), path, save_as_external_data=True, location=weights.name, size_threshold=0)
    assert model_files(path) == (path, weights)
    before = model_sha256(path)
    weights.write_bytes(bytes(weights.stat().st_size))
    assert model_sha256(path) != before
    weights.unlink()
    assert model_files(path) == (path,)


def test_what_is_no_model_is_one_file(tmp_path):
    path = tmp_path / "no.onnx"
    path.write_bytes(b"\xff\xff nothing")
    assert model_files(path) == (path,)
