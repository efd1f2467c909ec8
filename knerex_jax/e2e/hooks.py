"""Functions of the user's: found by name, called with an eye on what they do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from knerex_jax.data.functions import load_function, user_failure
from knerex_jax.errors import HookError, KnerexError


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
            raise user_failure(e, f"{self.role}={self.name}, {where}") from e

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
    return Hook(role, str(given), load_function(str(given), f"{role}={given}"))
