"""Real models with real data, for tests, examples and benchmarks; fetched on demand into a cache folder."""

from knerex_jax.zoo.command import main as main
from knerex_jax.zoo.model import EvaluationSet as EvaluationSet
from knerex_jax.zoo.model import ZooModel as ZooModel
from knerex_jax.zoo.sets import ZOO as ZOO
from knerex_jax.zoo.sets import zoo_model as zoo_model
