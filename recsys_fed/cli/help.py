"""The text of `--help`: plain, so that any terminal shows it, and with no word cut or parted at 80 columns.

The tables of options that typer draws by default cut long names, and take brackets ("recsys-fed[text]") for markup.
"""

from collections.abc import Iterable, Iterator

import click

_NAMES = 26  # A column that leaves room for the longest word of an explanation.
_HYPHEN = "\u2011"  # Lines are not broken behind it: dp-sgd.local-steps is one word.


class PlainHelp(click.HelpFormatter):
    """Click's formatter, but words with hyphens stay whole, and brackets are no markup that has to be escaped."""

    def write_text(self, text: str) -> None:
        """Write a paragraph."""
        super().write_text(_unbroken(text))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = _NAMES, col_spacing: int = 2) -> None:
        """Write names and what they mean."""
        super().write_dl([(name, _unbroken(text)) for name, text in rows], min(col_max, _NAMES), col_spacing)

    def getvalue(self) -> str:
        """The text, with the hyphens that people type."""
        return super().getvalue().replace(_HYPHEN, "-")


class HelpContext(click.Context):
    """Where a command finds its formatter."""

    formatter_class = PlainHelp


def with_plain_help(command: click.Command) -> click.Command:
    """Give a command and all below it this help; groups list commands with their whole first paragraph."""
    for one in _tree(command):
        one.context_class = HelpContext
        one.short_help = " ".join((one.help or "").split("\n\n")[0].split())
    return command


def _tree(command: click.Command) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from _tree(inner)


def _unbroken(text: str) -> str:
    return text.replace("\\[", "[").replace("-", _HYPHEN)
