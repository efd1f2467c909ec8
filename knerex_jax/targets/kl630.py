"""KL630: 8- and 15-bit data, 4-, 8- and 15-bit weights (public toolchain manual 0.33.1)."""

from knerex_jax.targets.spec import Target

KL630 = Target(name="630", data_bits=(8, 15), weight_bits=(4, 8, 15))
