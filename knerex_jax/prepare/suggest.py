"""The names that a mistyped one may stand for."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """What a message says about an unknown name: those that look like it, else all, as far as they fit a line."""
    names = list(dict.fromkeys(known))
    close = difflib.get_close_matches(name, names, count, 0.5)
    if close:
        return f"did you mean {' or '.join(repr(n) for n in close)}?"
    shown = ", ".join(names[:12])
    return f"there are {shown}{', ...' if len(names) > 12 else ''}" if names else "there are none"
