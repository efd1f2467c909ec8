"""The `knerex` command: arguments -> config -> api. No logic of its own."""

import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from knerex_jax.errors import ConfigError, KnerexError
from knerex_jax.nef.tools import opening_key
from knerex_jax.nef_cli import nef
from knerex_jax.performance.subject import COST_OPTIONS
from knerex_jax.quantize.config import PTQConfig, make_config
from knerex_jax.targets import TARGETS


def _parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """name:1,3,224,224 -> (name, shape); the name itself may hold colons."""
    name, _, dims = text.rpartition(":")
    try:
        return name, tuple(int(d) for d in dims.split(","))
    except ValueError:
        raise ConfigError(
            f"cannot read the shape {text!r}", where="--input-shape", fix="write it as name:1,3,224,224"
        ) from None


_FLOATS = ("weight_bandwidth", "dma_bandwidth", "percentage_16b", "output_headroom", "max_ms", "max_mb")
"""Options of numbers without a default."""


def _option_type(name: str, default: Any) -> Any:
    if isinstance(default, bool):
        return click.BOOL
    if isinstance(default, int):
        return click.INT
    if isinstance(default, float) or name in _FLOATS:
        return click.FLOAT
    return click.STRING


def _config_options(names: Collection[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """One option per field of PTQConfig, with its name, default and help."""
    return lambda command: _with_options(command, names)


def _with_options(command: Callable[..., Any], wanted: Collection[str]) -> Callable[..., Any]:
    for f in reversed([f for f in fields(PTQConfig) if f.name in wanted]):
        text, spelled = f.metadata["help"], f.name.replace("_", "-")
        if f.name == "input_shape":
            option = click.option("--input-shape", "input_shape", multiple=True, metavar="NAME:1,3,224,224", help=text)
        else:
            names = dict.fromkeys((f"--{spelled}", f"--{f.name}"))
            option = click.option(
                *names, f.name, type=_option_type(f.name, f.default), default=None,
                help=f"{text}. [default: {f.default}]" if f.default is not None else f"{text}.",
            )  # fmt: skip
        command = option(command)
    return command


@contextmanager
def _progress(console: Console, enabled: bool) -> Iterator[Callable[[str, int, int | None], None] | None]:
    """A bar per stage with time remaining; None when quiet."""
    if not enabled:
        yield None
        return
    columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def update(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield update


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="knerex-jax")
def knerex() -> None:
    """Post-training quantization for Kneron-class NPUs, bit-true."""


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, as fields of PTQConfig."""
    given = {k: v for k, v in options.items() if v is not None and v != ()}
    if "input_shape" in given:
        given["input_shape"] = dict(_parse_shape(s) for s in given["input_shape"])
    return given


@knerex.command()
@_config_options([f.name for f in fields(PTQConfig)])
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of tables.")
def ptq(quiet: bool, as_json: bool, **options: Any) -> None:
    """Quantizes a model; without --p-onnx, the digit CNN and the digits that ship with the package."""
    from knerex_jax.demo import run_default
    from knerex_jax.present import print_result

    given = _given(options)
    console = Console(stderr=as_json, quiet=quiet)
    with _progress(console, enabled=not quiet and console.is_terminal) as progress:
        if "p_onnx" in given or "np_txt" in given:
            from knerex_jax.api import run_ptq

            result, scores = run_ptq(make_config(**given), progress=progress), {}
        else:
            result, scores = run_default(given, progress=progress)
    if as_json:
        click.echo(json.dumps(result.report, indent=1))
    else:
        print_result(console, result, scores)


@knerex.command()
@click.argument("model", type=click.Path())
@click.option("--platform", type=click.Choice(list(TARGETS)), default="720", show_default=True, help="Chip.")
@click.option("--input-shape", multiple=True, metavar="NAME:1,3,224,224", help="Shape of an input.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of a table.")
@click.pass_context
def check(context: click.Context, model: str, platform: str, input_shape: tuple[str, ...], as_json: bool) -> None:
    """Says for every node of MODEL where it runs, and why; exit code 1 if one is unsupported."""
    from knerex_jax.check import check_model
    from knerex_jax.present import print_check

    report = check_model(model, platform, dict(_parse_shape(s) for s in input_shape))
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=1))
    else:
        print_check(Console(), report)
    context.exit(0 if report.supported else 1)


@knerex.command()
@click.argument("model", type=click.Path())
@click.option("--platform", "platforms", multiple=True, help="Chip; more than once, or all. [default: 720]")
@_config_options(COST_OPTIONS)
@click.option("--model-id", type=int, help="Which model of a nef.")
@click.option("--key-file", type=click.Path(), help="Key of an encrypted nef; else KNEREX_NEF_KEY.")
@click.option("-o", "--output-dir", type=click.Path(), help="Folder for ip_evaluation_<platform>.json and .txt.")
@click.option("--write-ip-config", type=click.Path(), help="Folder for ip_config_<platform>.json, to edit.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.pass_context
def evaluate(
    context: click.Context, model: str, platforms: tuple[str, ...], model_id: int | None, key_file: str | None,
    output_dir: str | None, write_ip_config: str | None, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Estimates fps, memory and costs by node of MODEL (ONNX, bie or nef); exit code 1 if a node is unsupported."""
    from knerex_jax.performance.run import evaluate as run
    from knerex_jax.performance.text import compared, rendered
    from knerex_jax.targets.machine import write_ip_config as write

    asked = tuple(TARGETS) if "all" in platforms else platforms or (None,)
    key = opening_key(model, key_file)
    found = [run(model, p, output_dir=output_dir, model_id=model_id, key=key, **_given(options)) for p in asked]
    if write_ip_config is not None:
        for one in found:
            click.echo(write(one.platform, write_ip_config, one.machine), err=True)
    if as_json:
        made = [one.to_json() for one in found]
        click.echo(json.dumps(made if platforms and len(asked) > 1 else made[0], indent=1))
    else:
        Console().print(compared(found) if len(found) > 1 else rendered(found[0]))
    context.exit(0 if all(one.supported for one in found) else 1)


@knerex.command()
@click.argument("folder", type=click.Path())
@click.option("--set", "settings", multiple=True, metavar="NODE.KEY=VALUE", help="One entry of quan_config.")
@click.option("--quan-config", help="More entries: a JSON or YAML file, or JSON text.")
@click.option("--data", required=True, help="Evaluation data: .npz, or a folder of .npy.")
def whatif(folder: str, settings: tuple[str, ...], quan_config: str | None, data: str) -> None:
    """Plans the result in FOLDER again with other settings, and prints the SNR of every output before and after."""
    from knerex_jax.diagnose.whatif import WhatIf, parse_settings
    from knerex_jax.present import print_trial

    subject = WhatIf.load(folder)
    trial = subject.change(parse_settings(settings, quan_config))
    inputs = subject.read(data)
    print_trial(Console(), trial.planned, *(subject.snr_db(t, inputs) for t in (subject.base, trial)))


@knerex.command()
@click.argument("path", type=click.Path())
@click.option("--batch-size", default=1, show_default=True, help="Copies that the emulator runs at once (bie).")
@click.option("--key-file", type=click.Path(), help="Key of an encrypted nef; else KNEREX_NEF_KEY.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@click.pass_context
def verify(context: click.Context, path: str, batch_size: int, key_file: str | None, as_json: bool) -> None:
    """Runs the built-in probe of a bie or nef on this machine; exit code 1 if its codes are others."""
    from knerex_jax.present import print_verdict
    from knerex_jax.verify import verify as run

    verdicts = run(path, batch_size=batch_size, key=opening_key(path, key_file))
    if as_json:
        click.echo(json.dumps([asdict(v) for v in verdicts], indent=1))
    else:
        for verdict in verdicts:
            print_verdict(Console(), verdict)
    context.exit(0 if all(v.equal for v in verdicts) else 1)


knerex.add_command(nef)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command line; a user's fault is one screen of text and exit code 1, never a traceback."""
    try:
        code = knerex(args=arguments, standalone_mode=False) or 0  # what a command gave context.exit, else nothing
    except click.exceptions.Exit as e:
        code = e.exit_code
    except click.ClickException as e:
        e.show()
        code = e.exit_code
    except click.exceptions.Abort:
        click.echo("interrupted; nothing was left half-written", err=True)
        code = 130
    except KnerexError as e:
        click.echo(f"{type(e).__name__}: {e}", err=True)
        code = 1
    sys.exit(code)
