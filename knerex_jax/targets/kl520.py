"""KL520: 8-bit only; shift-only requantization with 16-bit partial sums (public per-layer side files of its flow)."""

from knerex_jax.targets.spec import Target

KL520 = Target(
    name="520",
    data_bits=(8,),
    weight_bits=(4, 8),
    per_channel_radix=False,
    post_multiplier=False,
    narrow_psum=True,
    assumed=("weight_bits",),  # int4 weights are neither offered nor excluded in public documents
)
