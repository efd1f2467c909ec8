"""Python functions named in text: "module:function", for config files and command lines."""

import contextlib
import importlib
import linecache
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from knerex_jax.errors import ConfigError, HookError
from knerex_jax.suggest import nearest

_PACKAGE = str(Path(__file__).parents[1])
_NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*(\.\w+)*")


def is_function_name(text: Any) -> bool:
    """Whether this reads as "module:function" (a path with a colon does not: a module has no slash or suffix)."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def load_function(text: str, where: str) -> Callable[..., Any]:
    """The function that "module:function" names; its module is imported, which runs its code.

    Args:
      text: as the user gave it; the module may lie in the current folder.
      where: for messages.

    Raises:
      ConfigError: there is no such module or function.
      HookError: the module cannot be imported.
    """
    module, _, path = text.partition(":")
    if not module or not path:
        fix = "write module:function, or pass a callable (Python)"
        raise ConfigError(f"{text!r} names no function", where=where, fix=fix)
    with _current_folder():
        found: Any = _imported(module, where)
    for part in path.split("."):
        if not hasattr(found, part):
            public = [n for n in dir(found) if not n.startswith("_")]
            fix = nearest(part, public, f"define it in {getattr(found, '__file__', module)}", count=1)
            raise ConfigError(f"no {part!r} in {module}", where=where, fix=fix)
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(f"{path!r} is no function", where=where, fix="name a function")
    return found


@contextlib.contextmanager
def _current_folder() -> Iterator[None]:
    """Modules of the current folder can be imported, as with python -m."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _imported(module: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        if e.name is None or not f"{module}.".startswith(f"{e.name}."):  # something that the module itself imports
            raise user_failure(e, where) from e
        fix = "name it as module:function; the module lies in the current folder, or is installed"
        raise ConfigError(f"no module {module!r}", where=where, fix=fix) from e
    except Exception as e:
        raise user_failure(e, where) from e


def user_failure(e: Exception, where: str) -> HookError:
    """What the user's code raised, and the innermost line of it."""
    if isinstance(e, SyntaxError):
        place = f"{where}\n         {e.filename}:{e.lineno}"
        return HookError(f"SyntaxError: {e.msg}", where=place, fix="mend the line")
    foreign = ("<", sys.base_prefix, _PACKAGE)
    frames = [f for f in traceback.extract_tb(e.__traceback__) if not f.filename.startswith(foreign)]
    own = [f for f in frames if "site-packages" not in f.filename]
    if not own:
        return HookError(f"{type(e).__name__}: {e}", where=where, fix="mend the function")
    frame = own[-1]
    text = f"{type(e).__name__}: {e}".splitlines()[0]
    line = linecache.getline(frame.filename, frame.lineno or 0).strip()
    place = f"{where}\n         {frame.filename}:{frame.lineno} in {frame.name}"
    return HookError(text, where=place, fix=f"mend the line: {line}")
