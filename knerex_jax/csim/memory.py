"""Memories of bytes that know which of them were ever written."""

import numpy as np

from knerex_jax.errors import SimulationError


class Memory:
    """One memory.

    Attributes:
      name: for messages.
      data: uint8 [size].
    """

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.data = np.zeros(size, np.uint8)
        self._defined = np.zeros(size, bool)

    def fill(self, data: bytes) -> None:
        """Defines all of it."""
        if len(data) != len(self.data):
            raise SimulationError(
                f"{len(data)} bytes for a memory of {len(self.data)}", where=self.name, fix="compile again"
            )
        self.data[:] = np.frombuffer(data, np.uint8)
        self._defined[:] = True

    def read(self, places: np.ndarray) -> np.ndarray:
        """Bytes at addresses of any shape.

        Raises:
          SimulationError: one is outside, or was never written.
        """
        self._inside(places)
        if not self._defined[places].all():
            first = int(places.ravel()[np.argmin(self._defined[places].ravel())])
            raise SimulationError(
                f"reads byte {first}, which nothing has written", where=self.name, fix="compile again"
            )
        return self.data[places]

    def write(self, places: np.ndarray, values: np.ndarray) -> None:
        """Writes bytes at addresses.

        Raises:
          SimulationError: one is outside.
        """
        self._inside(places)
        self.data[places] = values
        self._defined[places] = True

    def forget(self, start: int, stop: int) -> None:
        """What is there means nothing any more."""
        self._defined[start:stop] = False

    def _inside(self, places: np.ndarray) -> None:
        if places.size and (places.min() < 0 or places.max() >= len(self.data)):
            worst = int(places.min() if places.min() < 0 else places.max())
            raise SimulationError(
                f"byte {worst} is outside of {len(self.data)} bytes", where=self.name, fix="compile again"
            )
