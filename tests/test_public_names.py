import pytest

import knerex_jax

PUBLIC = """
ArtifactError CheckReport CompileError ConfigError Evaluation FixedModel FloatModel KnerexError ModelEntry ModelError
NpuModel PTQConfig PTQResult PlanError QuantPlan REGISTRY SimulationError TARGETS UnsupportedOpError add_scores
analyze bit_true_match check_model combine_nef compile convert_channel_last_to_first decompose_onnx evaluate extract_nef
get_radix kneron_inference load_onnx lower_fixed lower_float make_plan nef_info run_ptq verify
""".split()


@pytest.mark.smoke
def test_public_names_are_exactly_these():
    modules = {m for m in vars(knerex_jax) if m.islower() and hasattr(getattr(knerex_jax, m), "__path__")}
    files = {"errors", "files", "metrics", "api", "check", "runtime", "cli", "demo", "present", "compat"}
    files |= {
        "flow",
        "improve",
        "npu_model",
        "onnx_backend",
        "conformance",
        "inference",
        "deliver",
        "match",
        "probe",
        "scores",
    }
    names = {n for n in vars(knerex_jax) if not n.startswith("_")} - modules - files
    assert names == set(PUBLIC)
