"""Options that several commands share, what becomes of them, and help that is whole at 80 columns."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer

from recsys_fed.config import FederationConfig, parse
from recsys_fed.errors import ConfigurationError

if TYPE_CHECKING:
    from recsys_fed.certificates.terms import LedgerTerms
    from recsys_fed.federation.planning import PublicCatalogue
    from recsys_fed.signing import SigningKey


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


PASSPHRASE = "RECSYS_FED_PASSPHRASE"  # noqa: S105  (the name of a variable)
DEFAULT_ITEMS = 3_000

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LedgerAddress = Annotated[
    str,
    typer.Argument(metavar="LEDGER", help="Path of an SQLite file, or a URL such as postgresql://user@host/name."),
]
KeyFile = Annotated[Path, typer.Option("--key", help=f"Key file of the silo; its passphrase is in {PASSPHRASE}.")]
WitnessFile = Annotated[
    Path | None, typer.Option("--witness", help="File that notes the last entry, best on another medium.")
]
Columns = Annotated[
    str | None,
    typer.Option(
        help="user=NAME,item=NAME[,value=][,time=][,kind=]; a number is a position in a file without a header; NAME "
        "empty switches a role off."
    ),
]

Kinds = Annotated[
    str | None,
    typer.Option(help="KIND=WEIGHT,... of a table with kinds of events: view=0.1,buy=1; other kinds are left out."),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="Of text tables, where it cannot be seen: separator=tab (comma, semicolon, pipe, colons, blank or a "
        "letter), encoding=NAME, header=no, lists=blank (several items in a cell).",
    ),
]

Epsilon = Annotated[float | None, typer.Option(help="Budget of every user, over all runs that are planned.")]
Delta = Annotated[float | None, typer.Option(help="Below 1 / declared users.")]
NoiseMultiplier = Annotated[
    float | None, typer.Option(help="The reverse: the base noise multiplier; epsilon follows.")
]
TrainerName = Annotated[str | None, typer.Option(help="auto, spectral, dp-sgd or popularity.")]
Rounds = Annotated[int | None, typer.Option(help="Rounds of training; 0 takes the trainer's rule.")]
Silos = Annotated[int | None, typer.Option(help="Number of silos.")]
DeclaredUsers = Annotated[int | None, typer.Option(help="Public order of magnitude of users of all silos.")]
Items = Annotated[int, typer.Option("--n-items", help="Rows of the catalogue.")]
CatalogueFile = Annotated[
    Path | None, typer.Option("--catalogue", help="The public catalogue; its features may change the rounds.")
]
EmbeddingDim = Annotated[int | None, typer.Option(help="Length of the vectors; 0 takes the rule.")]
MaxSilosPerUser = Annotated[int | None, typer.Option(help="In how many silos a user may be.")]
MetricsEpsilon = Annotated[float | None, typer.Option(help="Part of epsilon for metrics; 0: no metric leaves.")]
Noise = Annotated[str | None, typer.Option(help="per-silo: each silo adds all noise; distributed: once on the sum.")]
SecureAggregation = Annotated[
    bool | None,
    typer.Option(
        "--secure-aggregation/--no-secure-aggregation",
        help="The server learns sums of silos only, with noise once on the sum.",
    ),
]
Threshold = Annotated[
    int | None, typer.Option("--secure-aggregation-threshold", help="Silos that must stay in a round; 0: the rule.")
]
Colluders = Annotated[
    int | None, typer.Option("--secure-aggregation-colluders", help="Silos whose noise does not count.")
]
Setting = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE: dp-sgd.schedule=local.")]


def emit(record: object) -> None:
    """Write a record to standard output as JSON, in ASCII where the stream lacks one of its characters."""
    text = json.dumps(record, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        text = json.dumps(record, indent=2)
    sys.stdout.write(text + "\n")


def key_of(path: Path) -> "SigningKey":
    """Read a silo's key, with the passphrase of the environment if there is one."""
    from recsys_fed.signing import SigningKey  # noqa: PLC0415

    return SigningKey.load(path, passphrase=os.environ.get(PASSPHRASE))


def key_made(path: Path) -> "SigningKey":
    """Read a silo's key, or make it if there is none yet."""
    from recsys_fed.signing import SigningKey  # noqa: PLC0415

    if path.exists():
        return key_of(path)
    key = SigningKey.generate()
    key.save(path, passphrase=os.environ.get(PASSPHRASE))
    return key


def federation_of(
    flags: Mapping[str, Any], settings: list[str] | None, *, terms: "LedgerTerms | None" = None
) -> FederationConfig:
    """The configuration of a planned run: what was given, else the terms of a ledger, else the defaults of a run."""
    from recsys_fed.cli.simulate import settings_of  # noqa: PLC0415

    promised: dict[str, object] = {}
    if terms is not None:
        promised = {
            "delta": terms.guarantee.delta,
            "max-silos-per-user": terms.guarantee.max_silos_per_user,
            "declared-users": terms.declared_users,
        }
    given = {name.replace("_", "-"): value for name, value in flags.items() if value is not None}
    return parse(FederationConfig, promised | settings_of(settings or []) | with_words(given))


def with_words(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of a run from flags: --secure-aggregation is the word "on"."""
    words = {True: "on", False: "off"}
    return {key: words[value] if key == "secure-aggregation" else value for key, value in keys.items()}


def catalogue_of(path: Path | None, n_items: int) -> "PublicCatalogue":
    """The catalogue of a plan: a file, or just a size."""
    from recsys_fed.catalogue.items import Catalogue  # noqa: PLC0415
    from recsys_fed.federation.planning import PublicCatalogue  # noqa: PLC0415

    items = Catalogue.load(path) if path is not None else None
    return PublicCatalogue(n_items=items.n_items if items is not None else n_items, items=items)


def one_of_two(**given: object) -> None:
    """Refuse two options of which one alone has a meaning."""
    names = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ConfigurationError(f"Expected one of {' and '.join(names)}, got both. Leave one out.")
