"""Integer least squares: codes close to given real numbers in the metric of what the node reads.

Rounding one weight leaves an error that the others, still free, can take up; what correlation between the inputs allows
is solved column by column (the second-order view of rounding), then improved by coordinate descent until no code of one
step pays.
"""

import numpy as np

_BLOCK = 128


def round_lattice(
    exact: np.ndarray, gram: np.ndarray, limit: np.ndarray, held: np.ndarray, codes: np.ndarray, sweeps: int = 4
) -> np.ndarray:
    """Codes q with a small (q - exact)' gram (q - exact), per row of `exact`.

    Args:
      exact: float64 [G, O, F], real-valued codes.
      gram: float64 [G, F, F], positive definite.
      limit: int [G, O, 1], largest |code|.
      held: bool [G, O, F], codes that must not move.
      codes: int [G, O, F], their values.
      sweeps: rounds of coordinate descent.

    Returns:
      float64 [G, O, F], integers.
    """
    order = np.argsort(-np.diagonal(gram, axis1=1, axis2=2), axis=1, kind="stable")
    back = np.argsort(order, axis=1, kind="stable")
    gram = np.take_along_axis(np.take_along_axis(gram, order[:, :, None], 1), order[:, None, :], 2)
    exact, held, codes = (np.take_along_axis(a, order[:, None, :], 2) for a in (exact, held, codes))
    made = _descend(_compensate(exact, gram, limit, held, codes), exact, gram, limit, held, sweeps)
    return np.take_along_axis(made, back[:, None, :], 2)


def _compensate(
    exact: np.ndarray, gram: np.ndarray, limit: np.ndarray, held: np.ndarray, codes: np.ndarray
) -> np.ndarray:
    """Rounds column by column; the error of each is spread over the columns behind it so that it costs least."""
    factor = np.swapaxes(np.linalg.cholesky(np.linalg.inv(gram)), 1, 2)
    free, made = exact.copy(), np.empty_like(exact)
    limit = limit[..., 0]
    for start in range(0, exact.shape[2], _BLOCK):
        stop = min(start + _BLOCK, exact.shape[2])
        errors = np.empty((*exact.shape[:2], stop - start))
        for j in range(start, stop):
            rounded = np.clip(np.rint(free[..., j]), -limit, limit)
            made[..., j] = np.where(held[..., j], codes[..., j], rounded)
            error = (free[..., j] - made[..., j]) / factor[:, None, j, j]
            free[..., j + 1 : stop] -= error[..., None] * factor[:, None, j, j + 1 : stop]
            errors[..., j - start] = error
        free[..., stop:] -= errors @ factor[:, start:stop, stop:]
    return made


def _descend(
    made: np.ndarray, exact: np.ndarray, gram: np.ndarray, limit: np.ndarray, held: np.ndarray, sweeps: int
) -> np.ndarray:
    """Sets one code after the other to its best value given all others; the error never rises."""
    made, limit = made.copy(), limit[..., 0]
    slope = (made - exact) @ gram
    for _ in range(sweeps):
        moved = False
        for start in range(0, exact.shape[2], _BLOCK):
            stop = min(start + _BLOCK, exact.shape[2])
            before = made[..., start:stop].copy()
            for j in range(start, stop):
                best = np.clip(np.rint(made[..., j] - slope[..., j] / gram[:, None, j, j]), -limit, limit)
                change = np.where(held[..., j], 0.0, best - made[..., j])
                if change.any():
                    made[..., j] += change
                    slope[..., start:stop] += change[..., None] * gram[:, None, j, start:stop]
            changes = made[..., start:stop] - before
            if changes.any():
                moved = True
                slope[..., :start] += changes @ gram[:, start:stop, :start]
                slope[..., stop:] += changes @ gram[:, start:stop, stop:]
        if not moved:
            break
    return made
