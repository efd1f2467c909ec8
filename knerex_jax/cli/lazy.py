"""A group of commands of which each is imported only when it runs."""

from collections.abc import Mapping
from importlib import import_module

import click
from click.shell_completion import CompletionItem

from knerex_jax.suggest import nearest


class LazyGroup(click.Group):
    """A click group that knows names and one-line help of its commands, and imports a command to run it.

    `knerex -h` and the completion of a command's name would otherwise wait seconds for jax and onnx.
    """

    def __init__(self, *args: object, commands_of: str, helps: Mapping[str, str], **kwargs: object) -> None:
        """As `click.Group`.

        Args:
          *args: for click.
          commands_of: package with one module per command, each with the command under its module's name.
          helps: command -> one line of help; in the order in which they are listed.
          **kwargs: for click.
        """
        super().__init__(*args, **kwargs)
        self.commands_of, self.helps = commands_of, helps

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in their order."""
        return list(self.helps)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command itself."""
        if cmd_name not in self.helps:
            return None
        return getattr(import_module(f"{self.commands_of}.{cmd_name}"), cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is asked for; one that is not there ends the program with those that look like it."""
        if args[0] not in self.helps and not args[0].startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"No such command {args[0]!r}: {nearest(args[0], self.helps)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in the group's help."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.helps.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names that begin so, then the group's own options."""
        found = [CompletionItem(name, help=text) for name, text in self.helps.items() if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]
