"""What all commands have in common: exit codes, --quiet, --json, -h, completion."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from tiny import tiny_data, tiny_npz, tiny_onnx

import knerex_jax as kx
from knerex_jax.cli import knerex, main


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = commands(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
        found += inner
    return found


COMMANDS = commands(knerex)
SAYS_NOTHING = {("completion",), ("nef", "get")}
"""Commands whose whole output is what was asked for."""


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("built")
    result = kx.run_ptq(p_onnx=tiny_onnx(folder), np_txt=tiny_data(4), p_output=folder / "out", mode=1)
    tiny_npz(folder / "d.npz", 4)
    return {**result.paths, "folder": folder / "out", "data": folder / "d.npz", "onnx": folder / "tiny.onnx"}


def run(*arguments: object, capsys) -> tuple[int, str]:
    """(exit code, standard output)."""
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    return int(caught.value.code or 0), capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_short_help_and_the_common_options(command, capsys):
    code, said = run(*command, "-h", capsys=capsys)
    assert code == 0 and said.startswith("Usage:")
    assert command in SAYS_NOTHING or ("--json" in said and "--quiet" in said)
    summary = said.splitlines()[2].strip()
    assert summary[0].isupper() and len(summary) > 10


def test_the_group_says_what_exit_codes_mean(capsys):
    assert "130 interrupted" in run("-h", capsys=capsys)[1]


@pytest.mark.parametrize(
    "command",
    [
        ["check", "{onnx}"],
        ["evaluate", "{onnx}"],
        ["evaluate", "{onnx}", "--platform", "all"],
        ["verify", "{bie}"],
        ["nef", "info", "{nef}"],
        ["nef", "extract", "{nef}", "-o", "{folder}/parts"],
        ["whatif", "{folder}", "--data", "{data}", "--set", "conv0.bitwidth=15"],
    ],
    ids=lambda c: " ".join(c[:2]),
)
def test_json_is_one_document_and_quiet_is_silent(command, built, capsys):
    arguments = [part.format(**built) for part in command]
    code, said = run(*arguments, "--json", capsys=capsys)
    assert code == 0 and json.loads(said)
    assert run(*arguments, "--quiet", capsys=capsys) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["check", "none.onnx"], 1), (["check"], 2), (["chek"], 2), (["nef"], 2), (["ptq", "--mode", "x"], 2)],
)
def test_exit_codes_of_faults(arguments, code, capsys):
    assert run(*arguments, capsys=capsys)[0] == code


def test_a_negative_answer_is_exit_code_1(built, tmp_path, capsys):
    path = tmp_path / "m.onnx"
    path.write_bytes(built["onnx"].read_bytes().replace(b"Relu", b"Rilu"))
    code, said = run("check", path, "--json", capsys=capsys)
    assert code == 1 and "unsupported" in said


def complete(words: str, shell: str = "bash") -> list[str]:
    """What click answers when a shell asks; the last word is the one to complete."""
    parts = words.split(" ")
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(len(parts) - 1)}
    done = CliRunner().invoke(knerex, prog_name="knerex", env={**asked, "_KNEREX_COMPLETE": f"{shell}_complete"})
    return [line.partition(",")[2] for line in done.output.splitlines()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_that_asks_us(shell, capsys):
    code, said = run("completion", shell, capsys=capsys)
    assert code == 0 and "_KNEREX_COMPLETE" in said and f"{shell}_complete" in said
    assert "knerex completion" in said.splitlines()[0]


def test_completion_knows_commands_options_and_values():
    assert {"ptq", "doctor", "sweep"} <= set(complete("knerex "))
    assert "--outlier-factor" in complete("knerex ptq --outl")
    assert set(complete("knerex nef com")) == {"combine", "compile"}
    assert "520" in complete("knerex check m.onnx --platform 5")
