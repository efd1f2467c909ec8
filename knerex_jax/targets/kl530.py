"""KL530: 8- and 15-bit data, 4-, 8- and 15-bit weights (public toolchain manual 0.33.1)."""

from knerex_jax.targets.spec import Target

KL530 = Target(name="530", data_bits=(8, 15), weight_bits=(4, 8, 15))
