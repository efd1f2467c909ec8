"""KL720: 8- and 15-bit data, 8- and 15-bit weights, no 4-bit weights (public toolchain manual 0.33.1)."""

from knerex_jax.targets.spec import Target

KL720 = Target(name="720", data_bits=(8, 15), weight_bits=(8, 15))
