"""`knerex completion`."""

import click
from click.shell_completion import get_completion_class

_WHERE = {
    "bash": "knerex completion bash > ~/.local/share/bash-completion/completions/knerex",
    "zsh": 'knerex completion zsh > "${fpath[1]}/_knerex"',
    "fish": "knerex completion fish > ~/.config/fish/completions/knerex.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(list(_WHERE)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Prints the script with which SHELL completes commands, options and their values; it says where to save it."""
    root = context.find_root().command
    made = get_completion_class(shell)
    assert made is not None, f"click knows {shell}"
    click.echo(f"# {_WHERE[shell]}")
    click.echo(made(root, {}, "knerex", "_KNEREX_COMPLETE").source())
