"""Post-training quantization for Kneron-class NPUs: float ONNX and calibration data in, bit-true fixed point out."""
