"""What a platform's NPU asks of Resize and Upsample; see `conditions` for the form of these rules."""

from knerex_jax.graph.ir import Model, Node
from knerex_jax.ops.resize import AxisPlan, axis_plans, axis_positions, is_resized

_DIRECTIONS = {2: "rows", 3: "columns"}


def resize_530(node: Node, model: Model) -> str | None:
    """Not cubic; the extrapolation value is 0."""
    a = node.attrs
    if a.mode == "cubic":
        return "mode cubic: use nearest or linear"
    if a.extrapolation_value:
        return f"extrapolation value {a.extrapolation_value:g}, must be 0: stay inside the input, or extrapolate with 0"
    return None


def resize_520(node: Node, model: Model) -> str | None:
    """Not cubic; extrapolation value 0; exactly 4 dimensions; the first output position lies on input position (0, 0).

    Nearest mode rounds down; the coordinate mode is not tf_crop_and_resize.
    """
    a = node.attrs
    wrong = resize_530(node, model) or _exactly_4d(node, model)
    if wrong:
        return wrong
    if a.coordinate_transformation_mode == "tf_crop_and_resize":
        return "coordinate mode tf_crop_and_resize: crop by a Slice, then resize with asymmetric or align_corners"
    for axis, plan in _resized(node, model).items():
        if start := float(axis_positions(a, plan)[0]):
            return f"axis {axis} starts at position {start:g}, must be 0: use asymmetric or align_corners"
    if a.mode == "nearest" and a.nearest_mode != "floor":
        return f"nearest mode rounds by {a.nearest_mode}, must be floor: export with nearest_mode floor"
    return None


def resize_720(node: Node, model: Model) -> str | None:
    """Not cubic; extrapolation value 0; exactly 4 dimensions; rows and columns are not both resized.

    In the direction that is resized the first output position lies at input position 0 or later, and a step is at most
    one input pixel.
    """
    a = node.attrs
    wrong = resize_530(node, model) or _exactly_4d(node, model)
    if wrong:
        return wrong
    plans = _resized(node, model)
    if {2, 3} <= set(plans):
        return "rows and columns are both resized: use two Resize nodes, one per direction"
    for axis, plan in plans.items():
        if (start := float(axis_positions(a, plan)[0])) < 0:
            return f"axis {axis} starts at position {start:g}, must be 0 or more: use asymmetric or align_corners"
        if (step := _step(node, plan)) > 1:
            return f"axis {axis} steps by {step:g} input pixels, at most 1: shrink by pooling or a strided convolution"
    return None


def upsample_4d(node: Node, model: Model) -> str | None:
    """Exactly 4 dimensions; rows and columns only; mode nearest, linear or bilinear."""
    wrong = _exactly_4d(node, model)
    if wrong:
        return wrong
    others = [axis for axis in _resized(node, model) if axis not in _DIRECTIONS]
    if others:
        return f"axis {others[0]} is resized: resize rows and columns only"
    mode = node.attrs.mode
    return None if mode in ("nearest", "linear", "bilinear") else f"mode {mode}: use nearest or linear"


def upsample_one_direction(node: Node, model: Model) -> str | None:
    """Exactly 4 dimensions; rows or columns, not both; mode nearest, linear or bilinear."""
    both = {2, 3} <= set(_resized(node, model))
    return upsample_4d(node, model) or (
        "rows and columns are both resized: use two Upsample nodes, one per direction" if both else None
    )


def _exactly_4d(node: Node, model: Model) -> str | None:
    rank = len(model.graph.shape(node.inputs[0]))
    return None if rank == 4 else f"{rank} dimensions, must be 4: reshape in front and behind"


def _resized(node: Node, model: Model) -> dict[int, AxisPlan]:
    """Axis -> what is done to it, where anything is."""
    plans = axis_plans(node.attrs, model.graph.shape(node.inputs[0]))
    return {axis: plan for axis, plan in enumerate(plans) if is_resized(node.attrs, plan)}


def _step(node: Node, plan: AxisPlan) -> float:
    """Input pixels per output pixel."""
    at = axis_positions(node.attrs, plan)
    return float(at[1] - at[0]) if len(at) > 1 else 1 / plan.scale
