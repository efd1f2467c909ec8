"""Every failure a user can meet, as one small hierarchy: what went wrong, where, and how to fix it."""


class KnerexError(Exception):
    """Base of all errors raised for faults a user can mend.

    Attributes:
      what: what went wrong, one sentence.
      where: the file, node, tensor or option concerned.
      fix: what to do about it.
    """

    def __init__(self, what: str, *, where: str, fix: str) -> None:
        super().__init__(f"{what}\n  where: {where}\n  fix:   {fix}")
        self.what, self.where, self.fix = what, where, fix


class ModelError(KnerexError):
    """The model file or the data fed to it is not usable."""


class UnsupportedOpError(KnerexError):
    """An operator has no rule here."""


class ConfigError(KnerexError):
    """An option is unknown, out of range or impossible on this platform."""


class PlanError(KnerexError):
    """No legal fixed-point plan exists for a node."""


class ArtifactError(KnerexError):
    """A stage file cannot be written, or cannot be trusted when read."""


class CompileError(KnerexError):
    """A program that does not fit the machine it is compiled for."""


class HookError(KnerexError):
    """A function of the user's, around a model, failed or gave what cannot be used."""


class SimulationError(KnerexError):
    """A program that does what the machine forbids."""
