"""Post-training quantization for Kneron-class NPUs: float ONNX and calibration data in, bit-true fixed point out.

The public names are those of `__init__.pyi`; each is imported when it is first used, so that `knerex -h` needs no jax.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
