"""Where results go: the published folders lie under /data1, which not every machine has."""

from pathlib import Path

from knerex_jax.errors import ArtifactError
from knerex_jax.files import writable_folder
from knerex_jax.ktc.notes import tell_one

DATA = Path("/data1")
"""Root of the published folders."""

FALLBACK = Path("kneron_flow")
"""Used in its place, in the current folder."""


def output_folder(path: str | Path | None, default: str = "kneron_flow") -> Path:
    """The folder, made if needed; `kneron_flow` in the current one where /data1 cannot be used.

    Args:
      path: as asked; None for `default` under /data1.
      default: name of the usual folder.

    Raises:
      ArtifactError: it cannot be written (and is not under /data1).
    """
    folder = DATA / default if path is None else Path(path)
    if folder.parts[:2] == ("/", "data1"):
        folder = DATA.joinpath(*folder.parts[2:])
    if not folder.is_relative_to(DATA):
        return writable_folder(folder)
    try:
        return writable_folder(folder)
    except ArtifactError as e:
        rest = folder.relative_to(DATA)
        instead = FALLBACK if rest.parts[:1] == FALLBACK.parts else FALLBACK / rest
        tell_one("output_dir", folder, instead.resolve(), e.what)
        return writable_folder(instead)
