"""The platforms, by name."""

from knerex_jax.targets.kl520 import KL520
from knerex_jax.targets.kl530 import KL530
from knerex_jax.targets.kl630 import KL630
from knerex_jax.targets.kl720 import KL720
from knerex_jax.targets.kl730 import KL730
from knerex_jax.targets.spec import Target as Target

TARGETS = {t.name: t for t in (KL520, KL530, KL630, KL720, KL730)}
