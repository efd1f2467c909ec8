"""The digit CNN, quantized once."""

import pytest

import knerex_jax as kx
from knerex_jax import embedded


@pytest.fixture(scope="package")
def run(tmp_path_factory):
    data = {"input": embedded.calibration()["input"][:40]}
    return kx.run_ptq(p_onnx=embedded.model_path(), np_txt=data, p_output=tmp_path_factory.mktemp("ptq"), mode=1)
