import subprocess
import sys

import pytest

import knerex_jax

PUBLIC = """
ArtifactError Box CheckReport Comparison CompileError ConfigError DatasetScore Dump Evaluation FixedModel FloatModel
HeatMap HookError Inferred KnerexError Label Metric ModelEntry ModelError NpuModel Optimized PTQConfig PTQResult
PlanError QATConfig QuantPlan REGISTRY Simulation SimulationError TARGETS UnsupportedOpError add_scores analyze
bit_true_match check_model combine_nef compare_onnx compile convert_channel_last_to_first count_data decompose_onnx
dump edit_onnx evaluate evaluate_dataset extract_nef get_radix infer keep_compilations kneron_inference load_config
load_dump load_onnx load_samples lower_fixed lower_float make_plan nef_info optimize_onnx run_ptq run_qat
simulate_images verify
""".split()


@pytest.mark.smoke
def test_public_names_are_exactly_these():
    assert set(knerex_jax.__all__) == set(PUBLIC)


@pytest.mark.smoke
@pytest.mark.parametrize("name", PUBLIC)
def test_every_name_is_what_it_says_and_no_module(name):
    assert getattr(knerex_jax, name).__class__ is not type(knerex_jax)


@pytest.mark.smoke
@pytest.mark.parametrize("arguments", [["-h"], ["ptq", "-h"], ["qat", "-h"]])
def test_help_needs_neither_jax_nor_onnx(arguments):
    code = f"""import sys; from knerex_jax.cli import main
try: main({arguments})
except SystemExit: print({{"jax", "onnx", "onnxruntime"}} & set(sys.modules))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage: " in done.stdout and done.stdout.endswith("set()\n")
