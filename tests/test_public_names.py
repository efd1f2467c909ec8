import pytest

import knerex_jax

PUBLIC = """
ArtifactError CheckReport ConfigError FixedModel FloatModel KnerexError ModelError PTQConfig PTQResult PlanError
QuantPlan REGISTRY TARGETS UnsupportedOpError analyze check_model convert_channel_last_to_first decompose_onnx
get_radix kneron_inference load_onnx lower_fixed lower_float make_plan run_ptq
""".split()


@pytest.mark.smoke
def test_public_names_are_exactly_these():
    modules = {m for m in vars(knerex_jax) if m.islower() and hasattr(getattr(knerex_jax, m), "__path__")}
    files = {"errors", "files", "metrics", "api", "check", "runtime", "cli", "demo", "present", "compat"}
    files |= {"flow", "improve", "npu_model", "onnx_backend", "conformance"}
    names = {n for n in vars(knerex_jax) if not n.startswith("_")} - modules - files
    assert names == set(PUBLIC)
