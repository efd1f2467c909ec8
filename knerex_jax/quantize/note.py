"""What became of a request that could not be honoured as it was made."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Note:
    """A request and what became of it."""

    where: str
    requested: str
    applied: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: requested {self.requested}, {outcome(self.applied)} ({self.why})"


def outcome(applied: str) -> str:
    """What a note says was done: "applied ..." or, where nothing was, that."""
    return applied if applied.startswith(("not ", "left ")) else f"applied {applied}"
