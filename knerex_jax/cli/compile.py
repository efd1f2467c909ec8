"""The command `knerex compile`, which is `knerex nef compile`, too."""

from pathlib import Path

import click

from knerex_jax.cli.screen import Screen, with_screen

KEY = click.option(
    "--key-file", type=click.Path(), help="Key of encrypted nefs: 32 bytes or 64 hex digits; else KNEREX_NEF_KEY."
)
OUT = click.option("-o", "--p-output", default="kneron_flow", show_default=True, type=click.Path(), help="Folder.")
COMPRESS = click.option("--compress", is_flag=True, help="Pack the segments.")


@click.command()
@click.argument("bies", nargs=-1, required=True, type=click.Path())
@click.option("--fm-cut", default="default", show_default=True, help="default or deep_search.")
@click.option("--weight-bandwidth", type=float, help="GB/s of loading weights, by which divisions are compared.")
@click.option("--dma-bandwidth", type=float, help="GB/s of moving data, each way, likewise.")
@click.option("--first-id", default=32769, show_default=True, help="Id of the first model; the others count on.")
@OUT
@COMPRESS
@KEY
@with_screen
def compile(
    bies: tuple[str, ...], fm_cut: str, weight_bandwidth: float | None, dma_bandwidth: float | None, first_id: int,
    p_output: str, compress: bool, key_file: str, screen: Screen,
) -> None:  # fmt: skip
    """Compiles BIES into one nef."""
    from knerex_jax.deliver import ModelEntry
    from knerex_jax.deliver import compile as run
    from knerex_jax.nef.crypto import read_key

    entries = [ModelEntry(path, first_id + k) for k, path in enumerate(bies)]
    with screen.working("compiling"):
        made = run(
            entries, p_output, fm_cut=fm_cut, weight_bandwidth=weight_bandwidth, dma_bandwidth=dma_bandwidth,
            compress=compress, key=read_key(key_file),
        )  # fmt: skip
    show_files(screen, made)


def show_files(screen: Screen, *made: Path) -> None:
    """The files that were written, one a line."""
    screen.show(lambda: [str(path) for path in made], lambda _: click.echo("\n".join(map(str, made))))
