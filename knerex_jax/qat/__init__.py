"""Quantization-aware fine-tuning: a plan's weights, biases and scales trained behind its own integers."""
