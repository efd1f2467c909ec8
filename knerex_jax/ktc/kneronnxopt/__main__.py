"""`python -m knerex_jax.ktc.kneronnxopt`."""

from knerex_jax.ktc.kneronnxopt.command import OPTIMIZE, run

if __name__ == "__main__":
    run(OPTIMIZE)
