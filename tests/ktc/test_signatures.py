"""Names, order and defaults of the published interface, typed by hand from its description."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import knerex_jax.ktc as ktc
from knerex_jax.ktc import kneronnxopt, onnx_optimizer

NEEDED = inspect.Parameter.empty
FLOW = "/data1/kneron_flow"
WIDTHS = {
    "datapath_bitwidth_mode": "int8", "weight_bitwidth_mode": "int8", "model_in_bitwidth_mode": "int8",
    "model_out_bitwidth_mode": "int8", "cpu_node_bitwidth_mode": None,
}  # fmt: skip
COMPILE = {"model_list": NEEDED, "output_dir": None, "dedicated_output_buffer": True}
COMPILE_END = {
    "weight_compress": False, "flatbuffer": True, "compiler_tiling": "default", "weight_bandwidth": None,
    "dma_bandwidth": None,
}  # fmt: skip

PUBLISHED: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (ktc.ModelConfig, {
        "id": NEEDED, "version": NEEDED, "platform": NEEDED, "onnx_model": None, "onnx_path": None, "bie_path": None,
        "radix_json_path": None, "compiler_config_path": None, "debug": False, "input_fmt": None,
    }),
    (ktc.ModelConfig.evaluate, {
        "self": NEEDED, "output_dir": FLOW, **WIDTHS, "weight_bandwidth": None, "dma_bandwidth": None,
        "compiler_tiling": "default",
    }),
    (ktc.ModelConfig.analysis, {
        "self": NEEDED, "input_mapping": NEEDED, "output_dir": FLOW, "threads": 4, "quantize_mode": "default",
        "datapath_range_method": "percentage", "percentage": 0.999, "percentage_16b": 0.999999, "percentile": 0.001,
        "outlier_factor": 1.0, **WIDTHS, "const_in_bitwidth_mode": "int16", "flops_ratio": 0.2,
        "compiler_tiling": "default", "mode": 1, "optimize": 0, "quan_config": None, "export_dynasty_dump": False,
    }),
    (ktc.compile, {**COMPILE, **COMPILE_END}),
    (ktc.encrypt_compile, {
        **COMPILE, "mode": None, "key": "", "key_file": "", "encryption_efuse_key": "", **COMPILE_END
    }),
    (ktc.combine_nef, {"nef_path_list": NEEDED, "output_path": "/data1/combined"}),
    (ktc.kneron_inference, {
        "pre_results": NEEDED, "input_names": NEEDED, "nef_file": "", "onnx_file": "", "bie_file": "",
        "model_id": None, "data_type": "float", "reordering": None, "platform": 520, "dump": False,
    }),
    (ktc.get_radix, {"inputs": NEEDED}),
    (ktc.convert_channel_last_to_first, {"image": NEEDED}),
    (kneronnxopt.optimize, {
        "model": NEEDED, "duplicate_shared_weights": 1, "skip_check": False, "overwrite_input_shapes": None,
        "convert_f16": True, "skipped_optimizers": None, "skip_fuse_qkv": False, "clear_descriptions": False,
        "opt_matmul": False, "clear_shapes": False, "replace_avgpool_with_conv": False,
        "replace_dilated_conv": False, "defuse_gaps": False,
    }),
    (onnx_optimizer.onnx2onnx_flow, {
        "m": NEEDED, "disable_fuse_bn": False, "bgr": False, "norm": False, "rgba2yynn": False,
        "eliminate_tail": False, "opt_matmul": False, "opt_720": False, "duplicate_shared_weights": False,
        "bn_on_skip": False, "bn_before_add": False,
    }),
    (onnx_optimizer.pixel_modify, {"m": NEEDED, "scale": NEEDED, "bias": NEEDED}),
]  # fmt: skip


@pytest.mark.smoke
@pytest.mark.parametrize(("function", "parameters"), PUBLISHED, ids=lambda v: getattr(v, "__name__", ""))
def test_names_order_and_defaults(function, parameters):
    found = inspect.signature(function).parameters.values()
    named = [p for p in found if p.kind is not p.VAR_KEYWORD]
    assert [(p.name, p.default) for p in named] == list(parameters.items())
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in named)
