"""Functions of the user's: found by name, called with an eye on what they do."""

import contextlib
import difflib
import importlib
import importlib.util
import linecache
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from knerex_jax.errors import ConfigError, HookError, KnerexError


@dataclass(frozen=True)
class Hook:
    """A function of the user's.

    Attributes:
      role: what it is for: "pre", "post" or "metric".
      name: as the user gave it.
      function: itself.
    """

    role: str
    name: str
    function: Callable[..., Any]

    def __call__(self, where: str, *arguments: Any) -> Any:
        """Calls it; `where` says on what (a picture) in messages.

        Raises:
          HookError: it raises anything, with its own line.
        """
        try:
            return self.function(*arguments)
        except KnerexError:
            raise
        except Exception as e:  # whatever the user's code raises
            raise _failed(e, f"{self.role}={self.name}, {where}") from e

    def refuse(self, what: str, where: str, fix: str) -> HookError:
        """An error about what it gave."""
        return HookError(what, where=f"{self.role}={self.name}, {where}", fix=fix)


def find_hook(role: str, given: Callable[..., Any] | str) -> Hook:
    """A callable, or the one that "module:function" names; the module may lie in the current folder.

    Raises:
      ConfigError: it is neither, or there is no such module or function.
      HookError: the module cannot be imported.
    """
    if callable(given):
        return Hook(role, getattr(given, "__name__", type(given).__name__), given)
    module, _, path = str(given).partition(":")
    if not module or not path:
        raise ConfigError(
            f"{given!r} names no function", where=role, fix="write module:function, or pass a callable (Python)"
        )
    with _current_folder():
        found: Any = _imported(module, f"{role}={given}")
    for part in path.split("."):
        if not hasattr(found, part):
            close = difflib.get_close_matches(part, [n for n in dir(found) if not n.startswith("_")], n=1)
            fix = f"did you mean {close[0]!r}?" if close else f"define it in {getattr(found, '__file__', module)}"
            raise ConfigError(f"no {part!r} in {module}", where=f"{role}={given}", fix=fix)
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(f"{path!r} is no function", where=f"{role}={given}", fix="name a function")
    return Hook(role, str(given), found)


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
            raise _failed(e, where) from e
        fix = "check the name; the module lies in the current folder, or is installed"
        raise ConfigError(f"no module {module!r}", where=where, fix=fix) from e
    except Exception as e:
        raise _failed(e, where) from e


def _failed(e: Exception, where: str) -> HookError:
    """What the user's code raised, and the innermost line of it."""
    if isinstance(e, SyntaxError):
        place = f"{where}\n         {e.filename}:{e.lineno}"
        return HookError(f"SyntaxError: {e.msg}", where=place, fix="mend the line")
    frames = [f for f in traceback.extract_tb(e.__traceback__) if f.filename != __file__ and f.filename[:1] != "<"]
    own = [f for f in frames if "site-packages" not in f.filename and not f.filename.startswith(sys.base_prefix)]
    if not (own or frames):
        return HookError(f"{type(e).__name__}: {e}", where=where, fix="mend the function")
    frame = (own or frames)[-1]
    text = f"{type(e).__name__}: {e}".splitlines()[0]
    line = linecache.getline(frame.filename, frame.lineno or 0).strip()
    place = f"{where}\n         {frame.filename}:{frame.lineno} in {frame.name}"
    return HookError(text, where=place, fix=f"mend the line: {line}")
