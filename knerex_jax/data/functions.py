"""Python functions named in text: "module:function", for config files and command lines."""

import importlib
import re
from collections.abc import Callable
from typing import Any

from knerex_jax.errors import ConfigError

_NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*(\.\w+)*")


def is_function_name(text: Any) -> bool:
    """Whether this reads as "module:function" (a path with a colon does not: a module has no slash or suffix)."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def load_function(text: str) -> Callable[..., Any]:
    """Imports the module, which runs its code, and returns the function.

    Raises:
      ConfigError: there is no such module or function.
    """
    module, _, name = text.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as e:
        fix = "name it as module:function, with the module's folder on PYTHONPATH"
        raise ConfigError(f"there is no such function: {e}", where=text, fix=fix) from e
    if not callable(found):
        raise ConfigError("this is no function", where=text, fix="name a function without arguments")
    return found
