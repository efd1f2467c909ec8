"""The digit CNN, quantized once, with a dump of two samples."""

import pytest

import knerex_jax as kx
from knerex_jax import embedded


@pytest.fixture(scope="package")
def run(tmp_path_factory):
    return kx.run_ptq(
        p_onnx=embedded.model_path(), np_txt={"input": embedded.calibration()["input"][:40]}, mode=1,
        p_output=tmp_path_factory.mktemp("ptq"), export_dynasty_dump=True, dump_samples=2,
    )  # fmt: skip
