"""Float rules of Resize and Upsample against ONNX Runtime; their weights and positions by hand."""

import numpy as np
import pytest
from operator_cases import assert_equals_onnx_runtime, assert_written_as_an_equal_model, one

from knerex_jax.ops.resize import AxisPlan, ResizeAttrs, axis_nearest, axis_weights

RESIZE = [
    one(
        f"resize-{mode}-{coordinates}-{'x'.join(str(s) for s in factors)}",
        f'y = Resize<mode="{mode}", coordinate_transformation_mode="{coordinates}">(x, , s)',
        extra="float[4] s = {1, 1, " + ", ".join(str(s) for s in factors) + "}",
    )
    for mode in ("nearest", "linear", "cubic")
    for coordinates in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
    for factors in ((2, 2), (1.5, 0.6))
    # Symmetric half pixels: this version of the runtime knows the adjustment of whole sizes only.
    if coordinates != "half_pixel_symmetric" or factors == (2, 2)
]

SIZES = [
    one(
        f"resize-{mode}-{coordinates}-sizes",
        f'y = Resize<mode="{mode}", coordinate_transformation_mode="{coordinates}">(x, , , s)',
        extra="int64[4] s = {1, 3, 9, 5}",
    )
    for mode in ("nearest", "linear")
    for coordinates in ("half_pixel", "align_corners", "asymmetric")
]

ROUNDINGS = [
    one(
        f"resize-nearest-{rounding}",
        f'y = Resize<mode="nearest", nearest_mode="{rounding}", coordinate_transformation_mode="asymmetric">(x, , s)',
        extra="float[4] s = {1, 1, 2.5, 0.5}",
    )
    for rounding in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
]

RESIZE_OTHERS = [
    one(
        f"resize-antialias-{mode}", f'y = Resize<mode="{mode}", antialias=1>(x, , , s)',
        extra="int64[4] s = {1, 3, 3, 5}",
    )
    for mode in ("linear", "cubic")
] + [
    one(
        "resize-crop",
        'y = Resize<mode="linear", coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=3.5>'
        "(x, r, , s)",
        extra="float[8] r = {0, 0, 0.2, -0.3, 1, 1, 0.9, 1.4}, int64[4] s = {1, 3, 5, 9}",
    ),
    one(
        "resize-axes", 'y = Resize<mode="linear", axes=[3, 2]>(x, , s)', extra="float[2] s = {2, 3}",
    ),
    one(
        "resize-not-larger", 'y = Resize<mode="linear", axes=[2, 3], keep_aspect_ratio_policy="not_larger">(x, , , s)',
        extra="int64[2] s = {9, 10}",
    ),
    one(
        "resize-cubic-excluding", 'y = Resize<mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5>(x, , s)',
        extra="float[4] s = {1, 1, 2, 0.7}",
    ),
    one("resize-10-linear", 'y = Resize<mode="linear">(x, s)', extra="float[4] s = {1, 1, 2, 2}", opset=10),
    one("resize-10-nearest", 'y = Resize<mode="nearest">(x, s)', extra="float[4] s = {1, 1, 2, 3}", opset=10),
    one("upsample-9-linear", 'y = Upsample<mode="linear">(x, s)', extra="float[4] s = {1, 1, 2, 3}", opset=9),
    one("upsample-9-nearest", 'y = Upsample<mode="nearest">(x, s)', extra="float[4] s = {1, 1, 2, 2}", opset=9),
    one("upsample-8-nearest", 'y = Upsample<mode="nearest", scales=[1.0, 1.0, 2.0, 2.0]>(x)', opset=8),
]  # fmt: skip

CASES = [*RESIZE, *SIZES, *ROUNDINGS, *RESIZE_OTHERS]
REWRITTEN = [c for c in CASES if c.opset < 21]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_agrees_with_onnx_runtime(case):
    assert_equals_onnx_runtime(case)


@pytest.mark.parametrize("case", REWRITTEN, ids=lambda case: case.name)
def test_the_canonical_form_is_written_as_an_equal_model(case):
    assert_written_as_an_equal_model(case)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("size_out", [3, 7, 20])
def test_resize_weights_are_means(mode, size_out):
    weights = axis_weights(ResizeAttrs(mode=mode), AxisPlan(7, size_out, size_out / 7))
    assert weights.shape == (size_out, 7) and weights.dtype == np.float64
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-15)
    if size_out == 7:
        assert (weights == np.eye(7)).all()


def test_resize_positions_by_hand():
    half_pixel = ResizeAttrs(mode="linear")
    assert axis_weights(half_pixel, AxisPlan(2, 4, 2.0)).tolist() == [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    floor = ResizeAttrs(coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    assert axis_nearest(floor, AxisPlan(3, 6, 2.0)).tolist() == [0, 0, 1, 1, 2, 2]
    corners = ResizeAttrs(coordinate_transformation_mode="align_corners", nearest_mode="round_prefer_floor")
    assert axis_nearest(corners, AxisPlan(5, 3, 0.6)).tolist() == [0, 2, 4]
