"""Runs the code blocks of README and docs; `python tests/documents.py` writes what they print back into the pages.

The blocks of a page run in order, share their names, and run in one folder:

* `python` runs; its syntax is checked where it does not run.
* `console`: a line that begins with `$ ` is a command, and what follows is what it prints. `knerex ...` runs through
  the command line in this process; `; echo $?` behind it prints the exit code, and without that it has to be 0.
* `sh` holds the README's two commands, the only ones that install something; what the first does then runs.
* `text` is what the last block that ran prints.
* A block that begins with `# not run: ...` does not run, and says why.

Shown output is compared with doctest's rules: `...` stands for anything, and runs of blanks are one.
"""

import contextlib
import doctest
import io
import os
import shlex
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from knerex_jax import embedded
from knerex_jax.cli import main
from knerex_jax.compilations import keep_compilations

ROOT = Path(__file__).parents[1]
ANYTHING = "what a block that does not run would print"
WIDTH = "100"
"""Columns of the terminal that the pages show."""

NOT_RUN = "# not run: "
SET_UP = "python3 -m venv .venv && .venv/bin/pip install -q -e "
RULES = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def pages() -> list[Path]:
    """All pages with code that a reader would run."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@dataclass
class Shown:
    """Lines `start` to `stop` of a page (counted from 0), which show what a command or block prints."""

    start: int
    stop: int
    wanted: str
    got: str

    @property
    def equal(self) -> bool:
        return doctest.OutputChecker().check_output(self.wanted, self.got, RULES)


@dataclass
class Page:
    """A page and what running it leaves behind.

    Attributes:
      path: of the page.
      names: what its Python code defines.
      shown: what it shows of its output.
      not_run: reasons of blocks that do not run.
    """

    path: Path
    names: dict = field(default_factory=lambda: {"__name__": "__page__"})
    shown: list[Shown] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)

    @property
    def blocks(self) -> list[Token]:
        tokens = MarkdownIt().parse(self.path.read_text())
        assert not any(t.type == "code_block" for t in tokens), "an indented block has no language: fence it"
        return [t for t in tokens if t.type == "fence" and not t.info.startswith("{")]

    def run(self) -> None:
        """Runs all blocks in the current folder."""
        printed = None
        for block in self.blocks:
            assert block.map is not None
            line, kind = block.map[0] + 1, block.info
            if block.content.startswith(NOT_RUN):
                self.not_run.append(block.content.splitlines()[0].removeprefix(NOT_RUN))
                if kind == "python":
                    compile(block.content, str(self.path), "exec")
                printed = ANYTHING
            elif kind == "python":
                printed = printed_by(self._execute, block.content, line)
            elif kind == "sh":
                assert block.content.startswith(SET_UP), f"{self.path}:{line}: write commands as console"
                printed = printed_by(command, "knerex ptq") if "run_ptq" in block.content else printed
            elif kind == "console":
                self._console(block.content, line)
                printed = None
            elif kind == "text":
                assert printed is not None, f"{self.path}:{line}: nothing printed this"
                printed = block.content if printed is ANYTHING else printed
                self.shown.append(Shown(line, line + len(block.content.splitlines()), block.content, printed))
            elif kind in ("yaml", "json"):
                yaml.safe_load(block.content)
            elif kind == "toml":
                tomllib.loads(block.content)
            else:
                raise AssertionError(f"{self.path}:{line}: what is a block of {kind!r}?")

    def _execute(self, code: str, line: int) -> None:
        exec(compile("\n" * line + code, str(self.path), "exec"), self.names)

    def _console(self, text: str, line: int) -> None:
        lines = text.splitlines()
        starts = [k for k, s in enumerate(lines) if s.startswith("$ ")]
        assert starts and starts[0] == 0, f"{self.path}:{line}: a console begins with a command"
        for start, stop in zip(starts, [*starts[1:], len(lines)], strict=True):
            got = printed_by(command, lines[start].removeprefix("$ "))
            wanted = "".join(s + "\n" for s in lines[start + 1 : stop])
            if wanted:
                self.shown.append(Shown(line + start + 1, line + stop, wanted, got))

    def with_output(self) -> str:
        """The page with what was printed in place of what it shows; shown output with an ellipsis that fits stays."""
        lines = self.path.read_text().splitlines()
        for s in reversed(self.shown):
            if not s.equal:
                lines[s.start : s.stop] = [g.rstrip() for g in s.got.splitlines()]
        return "\n".join(lines) + "\n"


def printed_by(function, *arguments) -> str:
    """What a call prints, errors included."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        function(*arguments)
    return text.getvalue()


def command(text: str) -> None:
    """Runs `knerex ...`, which has to succeed unless its exit code is printed."""
    text, echoed, _ = text.partition("; echo $?")
    name, *arguments = shlex.split(text)
    assert name == "knerex", f"{text!r} cannot run here"
    try:
        main(arguments)
    except SystemExit as e:
        code = e.code
    if echoed:
        print(code)
    else:
        assert code == 0, f"{text!r} ended with exit code {code}"


@contextlib.contextmanager
def workplace(folder: Path, finished: Path | None = None) -> Iterator[None]:
    """In this folder, where the digit CNN stands for the reader's model: model.onnx, calibration.npz, evaluation.npz.

    `finished`: a result of `quantized`, to be found as kneron_flow.
    """
    if finished is not None:
        shutil.copytree(finished, folder / "kneron_flow")
    shutil.copy(embedded.model_path(), folder / "model.onnx")
    np.savez(folder / "calibration.npz", **embedded.calibration())
    inputs, labels = embedded.evaluation()
    np.savez(folder / "evaluation.npz", **{t: a[:100] for t, a in inputs.items()})
    np.save(folder / "labels.npy", labels[:100])
    before, columns = Path.cwd(), os.environ.get("COLUMNS")
    os.chdir(folder)
    os.environ["COLUMNS"] = WIDTH
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.pop("COLUMNS") if columns is None else os.environ.update(COLUMNS=columns)


def quantized(folder: Path) -> Path:
    """The folder that `knerex ptq --p-onnx model.onnx --np-txt calibration.npz` writes."""
    with workplace(folder):
        command("knerex ptq --p-onnx model.onnx --np-txt calibration.npz --quiet")
    return folder / "kneron_flow"


def renew(paths: Sequence[Path]) -> None:
    """Writes what pages print into them."""
    keep_compilations()
    with contextlib.ExitStack() as stack:
        place = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(1 + len(paths))]
        finished = quantized(place[0])
        for path, folder in zip(paths, place[1:], strict=True):
            page = Page(path)
            with workplace(folder, finished):
                page.run()
            path.write_text(page.with_output())
            print(path, f"{len(page.shown)} outputs, {sum(not s.equal for s in page.shown)} renewed")


if __name__ == "__main__":
    renew([Path(p).resolve() for p in sys.argv[1:]] or pages())
