"""Post-training quantization for Kneron-class NPUs: float ONNX and calibration data in, bit-true fixed point out."""

from knerex_jax.api import PTQResult as PTQResult
from knerex_jax.api import kneron_inference as kneron_inference
from knerex_jax.api import run_ptq as run_ptq
from knerex_jax.check import CheckReport as CheckReport
from knerex_jax.check import check_model as check_model
from knerex_jax.compat import convert_channel_last_to_first as convert_channel_last_to_first
from knerex_jax.compat import get_radix as get_radix
from knerex_jax.emulator.fixed import lower_fixed as lower_fixed
from knerex_jax.errors import ArtifactError as ArtifactError
from knerex_jax.errors import ConfigError as ConfigError
from knerex_jax.errors import KnerexError as KnerexError
from knerex_jax.errors import ModelError as ModelError
from knerex_jax.errors import PlanError as PlanError
from knerex_jax.errors import UnsupportedOpError as UnsupportedOpError
from knerex_jax.flow import analyze as analyze
from knerex_jax.flow import decompose_onnx as decompose_onnx
from knerex_jax.flow import make_plan as make_plan
from knerex_jax.lowering.float import lower_float as lower_float
from knerex_jax.ops import REGISTRY as REGISTRY
from knerex_jax.ops.load import load_onnx as load_onnx
from knerex_jax.quantize.config import PTQConfig as PTQConfig
from knerex_jax.quantize.plan import QuantPlan as QuantPlan
from knerex_jax.runtime import FixedModel as FixedModel
from knerex_jax.runtime import FloatModel as FloatModel
from knerex_jax.targets import TARGETS as TARGETS
