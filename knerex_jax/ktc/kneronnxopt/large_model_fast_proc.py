"""`python -m knerex_jax.ktc.kneronnxopt.large_model_fast_proc`."""

from knerex_jax.ktc.kneronnxopt.command import LARGE, run

if __name__ == "__main__":
    run(LARGE)
