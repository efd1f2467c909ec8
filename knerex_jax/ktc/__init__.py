"""The published interface: `import knerex_jax.ktc as ktc` in place of `import ktc`. docs/ktc.md says what differs."""

from knerex_jax.compat import convert_channel_last_to_first as convert_channel_last_to_first
from knerex_jax.compat import get_radix as get_radix
from knerex_jax.ktc import kneronnxopt as kneronnxopt
from knerex_jax.ktc import onnx_optimizer as onnx_optimizer
from knerex_jax.ktc import opt_and_eval as opt_and_eval
from knerex_jax.ktc.inference import kneron_inference as kneron_inference
from knerex_jax.ktc.model_config import ModelConfig as ModelConfig
from knerex_jax.ktc.nef import combine_nef as combine_nef
from knerex_jax.ktc.nef import compile as compile
from knerex_jax.ktc.nef import encrypt_compile as encrypt_compile
from knerex_jax.ktc.notes import AppliedOtherwise as AppliedOtherwise
