import pytest

import knerex_jax

PUBLIC = """
ArtifactError Box CheckReport Comparison CompileError ConfigError DatasetScore Dump Evaluation FixedModel FloatModel
HeatMap HookError Inferred KnerexError Label Metric ModelEntry ModelError NpuModel Optimized PTQConfig PTQResult
PlanError QuantPlan REGISTRY Simulation SimulationError TARGETS UnsupportedOpError add_scores analyze bit_true_match
check_model combine_nef compare_onnx compile convert_channel_last_to_first count_data decompose_onnx dump edit_onnx
evaluate evaluate_dataset extract_nef get_radix infer kneron_inference load_config load_dump load_onnx lower_fixed
lower_float make_plan nef_info optimize_onnx run_ptq simulate_images verify
""".split()


@pytest.mark.smoke
def test_public_names_are_exactly_these():
    modules = {m for m in vars(knerex_jax) if m.islower() and hasattr(getattr(knerex_jax, m), "__path__")}
    files = {"errors", "files", "metrics", "api", "check", "runtime", "cli", "demo", "present", "compat"}
    files |= {"flow", "improve", "npu_model", "onnx_backend", "conformance", "inference", "deliver", "match", "probe"}
    files |= {"config_file", "doctor", "runner", "scores", "counts", "dataset"}
    names = {n for n in vars(knerex_jax) if not n.startswith("_")} - modules - files
    assert names == set(PUBLIC)
