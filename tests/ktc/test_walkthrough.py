"""The maker's walk-through, written as for the maker's `ktc`; only the imports are changed."""

import numpy as np
import onnx

import knerex_jax.ktc as ktc
from knerex_jax import embedded
from knerex_jax.ktc import kneronnxopt

MODEL = embedded.model_path()
IMAGES = embedded.calibration()["input"][:12].astype(np.float64)


def preprocess(index):
    return IMAGES[index : index + 1]


def test_optimize_evaluate_analyse_infer_compile_combine(tmp_path):
    flow = str(tmp_path / "kneron_flow")

    # optimize
    model = onnx.load(MODEL)
    optimized_m = kneronnxopt.optimize(model)
    optimized_path = str(tmp_path / "digits.opt.onnx")
    onnx.save(optimized_m, optimized_path)
    assert len(optimized_m.graph.node) < len(model.graph.node)

    # evaluate
    km = ktc.ModelConfig(32769, "8b28", "720", onnx_model=optimized_m)
    eval_result = km.evaluate(output_dir=flow)
    assert "platform 720" in eval_result and " fps" in eval_result

    # float simulation
    input_data = [preprocess(0)]
    inf_results = ktc.kneron_inference(input_data, onnx_file=optimized_path, input_names=["input"])

    # quantize
    input_images = [preprocess(i) for i in range(len(IMAGES))]
    input_mapping = {"input": input_images}
    bie_path = km.analysis(input_mapping, output_dir=flow, threads=4)
    assert bie_path.endswith(".bie") and (tmp_path / "kneron_flow" / "model_fx_report.json").is_file()

    # fixed-point simulation
    fixed_results = ktc.kneron_inference(input_data, bie_file=bie_path, input_names=["input"], platform=720)

    # compile
    nef_path = ktc.compile([km], output_dir=flow)
    assert nef_path == f"{flow}/models_720.nef"

    # hardware simulation
    hw_results = ktc.kneron_inference(input_data, nef_file=nef_path, input_names=["input"], platform=720)
    hw_codes = ktc.kneron_inference(
        input_data, nef_file=nef_path, input_names=["input"], platform=720, model_id=32769, data_type="fixed",
        reordering=["logits"],
    )  # fmt: skip
    assert [r.shape for r in (*inf_results, *fixed_results, *hw_results)] == [(1, 10)] * 3
    np.testing.assert_array_equal(fixed_results[0], hw_results[0])
    assert inf_results[0].argmax() == fixed_results[0].argmax()
    assert np.issubdtype(hw_codes[0].dtype, np.integer)

    # a second model, from its bie, and both in one file
    km2 = ktc.ModelConfig(32770, "0001", 720, bie_path=bie_path)
    other = ktc.compile([km2], output_dir=str(tmp_path / "second"), weight_compress=True)
    combined = ktc.combine_nef([nef_path, other], output_path=str(tmp_path / "combined"))
    again = ktc.kneron_inference(
        input_data, nef_file=f"{combined}/models_720.nef", input_names=["input"], model_id=32770
    )
    np.testing.assert_array_equal(again[0], hw_results[0])
    both = ktc.compile([km, km2], output_dir=str(tmp_path / "both"))
    assert both.endswith("models_720.nef")


def test_the_other_ways_of_importing():
    from knerex_jax import ktc as again
    from knerex_jax.ktc import ModelConfig, compile, encrypt_compile

    assert again is ktc and again.onnx_optimizer.onnx2onnx_flow and ktc.opt_and_eval.opt_and_eval
    assert (ModelConfig, compile, encrypt_compile) == (ktc.ModelConfig, ktc.compile, ktc.encrypt_compile)
