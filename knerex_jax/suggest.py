"""The names that a mistyped one may stand for."""

import difflib
from collections.abc import Iterable


def nearest(name: object, known: Iterable[object], otherwise: str | None = None, *, count: int = 3) -> str:
    """What a message says about an unknown name.

    Args:
      name: what was written.
      known: what could have been meant.
      otherwise: said where nothing looks like it; None: all names, as far as they fit a line.
      count: of names at most.
    """
    names = list(dict.fromkeys(map(str, known)))
    close = difflib.get_close_matches(str(name), names, count, 0.6)
    if close:
        return f"did you mean {' or '.join(repr(n) for n in close)}?"
    if otherwise is not None:
        return otherwise
    shown = ", ".join(names[:12])
    return f"there are {shown}{', ...' if len(names) > 12 else ''}" if names else "there are none"
