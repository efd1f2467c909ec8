"""One user array -> one sample of a model input: shape, layout, element type, finite values."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from knerex_jax.errors import ConfigError, ModelError
from knerex_jax.graph.ir import TensorType

LAYOUTS = (None, "NCHW", "NHWC")


def sample_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of one sample: without a leading batch axis of 1; a model of fixed larger batch takes it whole."""
    return shape[1:] if shape[:1] == (1,) else shape


def sample_dtype(dtype: str) -> np.dtype:
    """float32 for every floating input, else the input's own integer or boolean type."""
    wanted = np.dtype(dtype)
    return wanted if wanted.kind in "iub" else np.dtype(np.float32)


def check_layout(layout: str | None) -> None:
    """Raises ConfigError unless the layout is one we know."""
    if layout not in LAYOUTS:
        raise ConfigError(f"unknown layout {layout!r}", where="layout", fix="choose NCHW or NHWC, or leave it out")


@dataclass(frozen=True)
class InputFit:
    """Turns arrays of the user into samples of one model input.

    Attributes:
      name: of the model input.
      type: its type, batch axis included.
      layout: "NCHW" or "NHWC" states how image-like arrays (three axes) lie; None finds out.
      as_is: whether arrays that fit both ways are taken as they are; else they are refused.
    """

    name: str
    type: TensorType
    layout: str | None = None
    as_is: bool = False

    def __call__(self, array: Any, index: int) -> np.ndarray:
        """One sample, contiguous, of shape `sample_shape` and type `sample_dtype`.

        Args:
          array: the exact input shape, the sample's shape, or channel last where the input is channel first.
          index: number of the sample, for messages.

        Raises:
          ModelError: wrong shape or element type, or NaN or infinity.
          ConfigError: the layout is ambiguous.
        """
        values = self._numeric(np.asarray(array), index)
        return self._finite(np.ascontiguousarray(self._arranged(values, index)), index)

    def _numeric(self, values: np.ndarray, index: int) -> np.ndarray:
        if values.dtype.kind not in "fiub":
            kind = {"c": "complex", "O": "object", "U": "text", "S": "text"}.get(values.dtype.kind, str(values.dtype))
            raise ModelError(
                f"{kind} values cannot feed a {self.type.dtype} input", where=self._place(index),
                fix="convert the array to float32 (ragged lists become object arrays: make all rows equally long)",
            )  # fmt: skip
        return values

    def _arranged(self, values: np.ndarray, index: int) -> np.ndarray:
        wanted = sample_shape(self.type.shape)
        plain = values[0] if values.ndim == len(wanted) + 1 and values.shape[0] == 1 else values
        straight = plain.shape == wanted
        turned = plain.ndim == len(wanted) == 3 and (plain.shape[2], *plain.shape[:2]) == wanted
        if straight and turned and self.layout is None and plain.size > 1 and not self.as_is:
            raise ConfigError(
                f"arrays of shape {values.shape} fit the input both channel first and channel last",
                where=self._place(index), fix='state the layout of your arrays: layout="NCHW" or layout="NHWC"',
            )  # fmt: skip
        if turned and self.layout != "NCHW" and not (straight and self.layout is None):
            return plain.transpose(2, 0, 1)
        if straight:
            return plain
        what = f"shape {values.shape} does not fit the input {self.type.shape}"
        raise ModelError(what, where=self._place(index), fix=self._hint(wanted))

    def _hint(self, wanted: tuple[int, ...]) -> str:
        forms = [f"{wanted}"] if wanted == self.type.shape else [f"{self.type.shape}", f"{wanted}"]
        if len(wanted) == 3 and self.layout != "NCHW":
            forms.append(f"channel last {(*wanted[1:], wanted[0])}")
        stated = f"; layout={self.layout!r} was stated" if self.layout else ""
        return f"give each sample as {' or '.join(forms)}{stated}"

    def _finite(self, values: np.ndarray, index: int) -> np.ndarray:
        dtype = sample_dtype(self.type.dtype)
        if values.dtype == dtype and dtype.kind != "f":
            return values
        with np.errstate(over="ignore", invalid="ignore"):
            cast = values.astype(dtype, copy=False)
            if dtype.kind == "f":
                if np.isfinite(cast).all():
                    return cast
                self._refuse_unfinite(values, index)
            if (cast == values).all():
                return cast
        raise ModelError(
            f"{values.dtype} values are not whole numbers of {dtype}", where=self._place(index),
            fix=f"convert the array to {dtype} yourself",
        )  # fmt: skip

    def _refuse_unfinite(self, values: np.ndarray, index: int) -> None:
        what = "NaN" if np.isnan(values).any() else "infinity" if np.isinf(values).any() else "values beyond float32"
        fix = "remove the sample, or repair its preprocessing"
        raise ModelError(f"calibration data holds {what}", where=self._place(index), fix=fix)

    def _place(self, index: int) -> str:
        return f"input '{self.name}', sample {index}"
