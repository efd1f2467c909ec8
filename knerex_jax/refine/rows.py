"""What the outputs of a weighted node are made of: at sampled places, the codes under its weights, as matrix rows."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from knerex_jax.graph.ir import Model
from knerex_jax.lowering.float import lower_float
from knerex_jax.ops.mac import MacForm
from knerex_jax.ops.opdef import OpDef
from knerex_jax.program.primitives import Mac
from knerex_jax.program.program import Program

_FEWEST_ROWS, _MOST_ROWS = 4096, 16384
_ROWS_PER_WEIGHT = 32


def output_places(mac: Mac, program: Program) -> int:
    """Number of places of the node's output, channels apart."""
    shape, axis = program.shapes[mac.output], mac.axis
    assert axis is not None
    return math.prod(shape) // shape[axis]


def sample_places(mac: Mac, program: Program, features: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random places of the output for each of `count` samples: int32 [count, P], flat over all axes but channels."""
    places = output_places(mac, program)
    wanted = min(max(_ROWS_PER_WEIGHT * features, _FEWEST_ROWS), _MOST_ROWS)
    each = min(-(-wanted // count), places)
    return np.stack([rng.permutation(places)[:each] for _ in range(count)]).astype(np.int32)


def weight_rows(
    mac: Mac, form: MacForm, x: np.ndarray, shapes: tuple[tuple[int, ...], tuple[int, ...]], places: np.ndarray
) -> np.ndarray:
    """The input codes that each weight meets.

    Args:
      mac: a conv, conv_transpose or dense node.
      form: its weights [O, J, *kernel].
      x: input codes [N, *input shape].
      shapes: of the node's input and output, one sample.
      places: int32 [N, P] of its output.

    Returns:
      float32 [G, N * P, J * kernel]: per group of outputs (1 if all read the same inputs), one row per place.
    """
    if mac.kind == "dense":
        rows = np.take_along_axis(x.reshape(len(x), -1, x.shape[-1]), places[..., None], axis=1)
        return rows.reshape(1, -1, x.shape[-1]).astype(np.float32)
    (_, channels, *spatial), (images, outputs, *out) = shapes
    window = mac.window
    assert window is not None
    index, *coordinates = np.unravel_index(places, (images, *out))
    inside = np.ones(places.shape, bool)
    for a, (o, size) in enumerate(zip(coordinates, spatial, strict=True)):
        tap = np.arange(window.kernel[a]) * window.dilations[a]
        begin, stride = window.pads[a][0], window.strides[a]
        if mac.kind == "conv":
            at, fits = o[..., None] * stride - begin + tap, True
        else:
            at, rest = np.divmod(o[..., None] + begin - tap, stride)
            fits = rest == 0
        ok = fits & (at >= 0) & (at < size)
        # Axes of the kernel follow one another behind [N, P].
        lead = (*places.shape, *(1,) * a, len(tap))
        index = index[..., None] * size + np.clip(at, 0, size - 1).reshape(lead)
        inside = inside[..., None] & ok.reshape(lead)
    taps = math.prod(window.kernel)
    index, inside = index.reshape(*places.shape, taps), inside.reshape(*places.shape, taps)
    channel = form.feeding[:: outputs // mac.group]
    flat = x.swapaxes(1, 2).reshape(len(x), channels, -1)
    parts = [np.where(inside[n], flat[n][:, index[n]], 0)[channel] for n in range(len(x))]
    rows = np.stack(parts, axis=1).astype(np.float32)  # [G, N, J, P, taps]
    return np.ascontiguousarray(rows_first(rows))


def rows_first(rows: np.ndarray) -> np.ndarray:
    """[G, N, J, P, taps] -> [G, N * P, J * taps]."""
    g, n, j, p, taps = rows.shape
    return np.moveaxis(rows, 2, 3).reshape(g, n * p, j * taps)


def float_values(
    model: Model, wanted: Mapping[str, tuple[str, int, np.ndarray]], inputs: Mapping[str, np.ndarray], batch_size: int,
    registry: Mapping[str, OpDef],
) -> dict[str, np.ndarray]:  # fmt: skip
    """What the float model gives at sampled places.

    Args:
      model: the planned model.
      wanted: node -> (tensor, its channel axis, places int32 [N, P]).
      inputs: name -> [N, ...] in place of the model's batch axis.
      batch_size: samples per compiled step.
      registry: operator records.

    Returns:
      node -> float32 [N * P, C].
    """
    fn, params = lower_float(model, taps=[t for t, _, _ in wanted.values()], registry=registry)

    def one(
        params: Mapping[str, jax.Array], sample: Mapping[str, jax.Array], places: Mapping[str, jax.Array]
    ) -> dict[str, jax.Array]:
        values = fn(params, sample)
        found = {}
        for name, (tensor, axis, _) in wanted.items():
            rows = jnp.moveaxis(values[tensor], axis, -1)
            found[name] = rows.reshape(-1, rows.shape[-1])[places[name]]
        return found

    step, params = jax.jit(jax.vmap(one, (None, 0, 0))), jax.device_put(params)
    places = {name: p for name, (_, _, p) in wanted.items()}
    count = len(next(iter(inputs.values())))
    size = min(batch_size, count)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    for start in range(0, count, size):
        # The last batch is taken from the end, so that there is one shape to compile.
        first = min(start, count - size)
        sample = {t: v[first : first + size].reshape(size, *model.graph.shape(t)) for t, v in inputs.items()}
        made = step(params, sample, {name: p[first : first + size] for name, p in places.items()})
        for name, value in made.items():
            parts[name].append(np.asarray(value)[start - first :])
    return {name: np.concatenate(p).reshape(-1, p[0].shape[-1]) for name, p in parts.items()}
