"""Sphinx configuration: `sphinx-build -W -c docs . build/site`, from the root of the repository.

The root is the source folder, so that a relative link between pages, experiments and the contract is the same link in
the repository's view and on the site, and no page is copied.
"""

import re
from importlib.metadata import version as installed

from sphinx.application import Sphinx

project = "knerex_jax"
author = "the knerex_jax authors"
release = installed("knerex-jax")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click", "sphinx_copybutton"]
root_doc = "docs/index"
include_patterns = ["README.md", "ARITHMETIC.md", "CHANGELOG.md", "docs/**", "experiments/**.md"]
exclude_patterns = ["docs/conf.py", "docs/site"]

myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # pages of measurements begin with a question, not with a first-level heading

html_theme = "furo"
html_title = f"knerex_jax {release}"
html_extra_path = ["site"]  # index.html, which leads to docs/index.html
html_copy_source = html_show_sourcelink = False
copybutton_prompt_text = "$ "
copybutton_exclude = ".linenos, .go"

default_role = "code"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_ivar = True

_LITERAL = re.compile(r"(``[^`]+``|`[^`]+`)")


def plain(line: str) -> str:
    """Docstrings and help are plain text with `code` in backticks: nothing else in them is markup."""
    parts = _LITERAL.split(line)
    parts[::2] = [re.sub(r"([*|\\]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [f"``{part.strip('`')}``" for part in parts[1::2]]
    return "".join(parts)


def plain_docstring(app: Sphinx, kind: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Before napoleon reads the sections."""
    lines[:] = map(plain, lines)


def plain_help(app: Sphinx, context: object, lines: list[str]) -> None:
    """The options of a command; lines of directives stay."""
    lines[:] = [line if line.lstrip().startswith("..") else plain(line) for line in lines]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", plain_docstring, priority=100)
    app.connect("sphinx-click-process-options", plain_help)
    app.connect("sphinx-click-process-description", plain_help)
