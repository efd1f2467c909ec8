"""`python -m knerex_jax.ktc.kneronnxopt.onnx_vs_onnx`."""

from knerex_jax.ktc.kneronnxopt.command import COMPARE, run

if __name__ == "__main__":
    run(COMPARE)
