"""What `knerex doctor` says, and that it notices integers that are not exact."""

import json
from dataclasses import replace

import pytest
from rich.console import Console

from knerex_jax import doctor
from knerex_jax.cli import doctor as command
from knerex_jax.cli import main


@pytest.fixture(scope="module")
def found() -> doctor.Diagnosis:
    return doctor.diagnose()


def test_it_says_what_is_there(found):
    assert {"python", "jax", "jaxlib", "numpy", "onnx", "onnxruntime", "knerex-jax"} <= set(found.versions)
    assert found.devices and found.backend in ("cpu", "gpu", "tpu")
    assert set(found.speed) == {"dot", "convolution"} and all(ratio > 0 for ratio in found.speed.values())
    assert set(found.extras) == {"yaml", "crypto", "cuda"}
    assert found.free_gb["disk"] and json.loads(json.dumps(found.to_json()))["healthy"] is True


def test_the_self_test_covers_every_form_of_product(found):
    assert [test.widths for test in found.tests] == ["int8", "int16"]
    for test in found.tests:
        assert test.differing == 0 and test.codes > 10_000
        assert all(form in test.methods for form in ("conv", "dot", "taps", "im2col"))


@pytest.mark.parametrize("wrong", [0, 3])
def test_a_difference_is_exit_code_1(wrong, found, monkeypatch, capsys):
    tests = (replace(found.tests[0], differing=wrong, first="node stem"), *found.tests[1:])
    monkeypatch.setattr(doctor, "diagnose", lambda: replace(found, tests=tests))
    with pytest.raises(SystemExit) as caught:
        main(["doctor"])
    said = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == (1 if wrong else 0)
    assert ("3 codes differ: node stem" in said) == bool(wrong) and "exact" in said


def test_slow_products_are_pointed_out(found):
    assert any("no fast kernel" in text for text in replace(found, speed={"dot": 40.0, "convolution": 1.0}).advice)
    cached = replace(found, folders={"cache": "c", "compilations": "/somewhere"}).advice
    assert any("MIN_COMPILE_TIME_SECS=0" in text for text in cached)
    console = Console(record=True, width=200, file=None)
    with console.capture() as said:
        command._print(console, replace(found, folders={"cache": "c", "compilations": None}))
    assert "JAX_COMPILATION_CACHE_DIR" in said.get()
