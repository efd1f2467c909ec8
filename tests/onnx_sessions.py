"""ONNX Runtime as a judge."""

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime as ort


def run_codes(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray], level: str) -> dict[str, np.ndarray]:
    """Outputs of one sample at an optimization level of ONNX Runtime (ORT_DISABLE_ALL, ORT_ENABLE_ALL)."""
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options)
    feed = {i.name: np.asarray(inputs[i.name]).reshape(i.shape) for i in session.get_inputs()}
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))
