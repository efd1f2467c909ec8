"""A batch spread over the devices of this process: each runs the same program on a microbatch of the same shape.

The program of a device sees nothing of the others, so what it computes for a microbatch does not depend on how many
there are; what the devices have counted is merged by minimum, maximum and sum of integers, which have no order.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from knerex_jax.errors import ConfigError

AXIS = "data"

SHARED, SPLIT = P(), P(AXIS)
"""How an argument lies: whole on every device, or its leading axis divided among them."""


def data_mesh(devices: int | None = None, microbatches: int | None = None) -> Mesh | None:
    """The devices of this process that take part.

    Args:
      devices: so many; None: all of the default backend, or the one that `jax.default_device` names.
      microbatches: how many there are to work on, if known; more devices than that are not used.

    Returns:
      A mesh with one axis; None where one device does it all.

    Raises:
      ConfigError: there are fewer devices.
    """
    if devices is None:
        devices = len(jax.local_devices()) if jax.config.jax_default_device is None else 1
    found = first_devices(devices)
    used = devices if microbatches is None else max(1, min(devices, microbatches))
    return Mesh(found[:used], (AXIS,)) if used > 1 else None


def first_devices(devices: int, option: str = "devices") -> np.ndarray:
    """The first so many devices of this process.

    Raises:
      ConfigError: there are fewer; `option` asked for them.
    """
    there = jax.local_devices()
    if devices > len(there):
        raise ConfigError(
            f"this process has {len(there)} devices of kind {there[0].device_kind}", where=f"{option}={devices}",
            fix=f"ask for fewer; JAX_NUM_CPU_DEVICES={devices} before Python starts divides a CPU",
        )  # fmt: skip
    return np.array(there[:devices])


def device_count(mesh: Mesh | None) -> int:
    return 1 if mesh is None else mesh.size


def over_devices(
    fn: Callable[..., Any], mesh: Mesh | None, arguments: Sequence[P] = (SHARED, SPLIT), results: P = SPLIT
) -> Callable[..., Any]:
    """The same function, run by every device on its part.

    Args:
      fn: pure, not compiled.
      mesh: from `data_mesh`.
      arguments: of each, `SHARED` or `SPLIT`.
      results: likewise, of all of them; `SHARED`: every device has the same.

    Returns:
      A function whose results, unless shared, have the parts of all devices behind each other on their leading axis.
    """
    if mesh is None:
        return fn
    # Nothing passes between devices, so there is nothing for the check of replicated values to find.
    return jax.shard_map(fn, mesh=mesh, in_specs=tuple(arguments), out_specs=results, check_vma=False)


def replicated(tree: Any, mesh: Mesh | None) -> Any:
    """Constants on every device."""
    return jax.device_put(tree, None if mesh is None else NamedSharding(mesh, SHARED))


def split(tree: Any, mesh: Mesh) -> Any:
    """Arrays on the host whose leading axis is divided among the devices."""
    return jax.device_put(tree, NamedSharding(mesh, SPLIT))


def parts_of(samples: int, micro: int, mesh: Mesh | None) -> tuple[np.ndarray, np.ndarray]:
    """How so many samples fill one step.

    Args:
      samples: at most `micro` per device.
      micro: samples per device and step.
      mesh: from `data_mesh`.

    Returns:
      int64 [devices * micro], which sample stands at each place: the last one fills its microbatch, and that
      microbatch stands in for those that are missing, so that each is one that a single device would have run, too.
      int32 [devices], so many of a device's places count.
    """
    devices = device_count(mesh)
    assert 0 < samples <= devices * micro, "a step takes at most a microbatch per device"
    batch = np.minimum(np.arange(devices), (samples - 1) // micro)
    places = np.minimum(batch[:, None] * micro + np.arange(micro), samples - 1)
    return places.reshape(-1), np.clip(samples - np.arange(devices) * micro, 0, micro).astype(np.int32)
