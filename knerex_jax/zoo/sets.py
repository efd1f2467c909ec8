"""The named models. A new one is a module that makes a `ZooModel`, and one entry here."""

from knerex_jax.errors import ConfigError
from knerex_jax.zoo.age import A2
from knerex_jax.zoo.blazeface import A3_BACK, A3_FRONT
from knerex_jax.zoo.characters import A4
from knerex_jax.zoo.digits import A9
from knerex_jax.zoo.imagenet import A1
from knerex_jax.zoo.model import ZooModel
from knerex_jax.zoo.notes import A7
from knerex_jax.zoo.orientation import A6_CLS
from knerex_jax.zoo.sentences import A8
from knerex_jax.zoo.textlines import A5
from knerex_jax.zoo.textscenes import A6_DET

ZOO: dict[str, ZooModel] = {
    model.name: model for model in (A1, A2, A3_FRONT, A3_BACK, A4, A5, A6_DET, A6_CLS, A7, A8, A9)
}


def zoo_model(name: str) -> ZooModel:
    """Looks a model up by name.

    Raises:
      ConfigError: there is no such model.
    """
    if name not in ZOO:
        raise ConfigError(f"no model '{name}' in the zoo", where="name", fix=f"choose one of {', '.join(ZOO)}")
    return ZOO[name]
