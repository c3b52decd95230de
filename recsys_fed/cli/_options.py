"""Options that several commands share, what becomes of them, and help that is whole at 80 columns."""

import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import click
import typer

from recsys_fed.config import FederationConfig, SimulationConfig, check_run_keys, parse
from recsys_fed.errors import ConfigurationError
from recsys_fed.settings_file import parse_value

if TYPE_CHECKING:
    from recsys_fed.certificates.terms import LedgerTerms
    from recsys_fed.federation.planning import PublicCatalogue
    from recsys_fed.signing import SigningKey


_NAMES = 26  # A column that leaves room for the longest word of an explanation.
_HYPHEN = "\u2011"  # Lines are not broken behind it: dp-sgd.local-steps is one word.


class _PlainHelp(click.HelpFormatter):
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


class _HelpContext(click.Context):
    """Where a command finds its formatter."""

    formatter_class = _PlainHelp


def with_plain_help(command: click.Command) -> click.Command:
    """Give a command and all below it this help; groups list commands with their whole first paragraph."""
    for one in _tree(command):
        one.context_class = _HelpContext
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

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
LedgerAddress = Annotated[
    str,
    typer.Argument(metavar="LEDGER", help="Path of an SQLite file, or a URL such as postgresql://user@host/name."),
]
KeyFile = Annotated[Path, typer.Option("--key", help=f"Key file of the silo; its passphrase is in {PASSPHRASE}.")]
WitnessFile = Annotated[
    Path | None, typer.Option("--witness", help="File that notes the last entry, best on another medium.")
]
NoiseMultiplier = Annotated[
    float | None, typer.Option(help="The reverse: the base noise multiplier; epsilon follows.")
]
Items = Annotated[int, typer.Option("--n-items", help="Number of items in the catalogue.")]
CatalogueFile = Annotated[
    Path | None, typer.Option("--catalogue", help="The public catalogue; its features may change the rounds.")
]
Track = Annotated[str, typer.Option(help="mlflow: record every finished training there (MLFLOW_TRACKING_URI).")]
Setting = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE, any key of a scenario: dp-sgd.local-steps=10.")
]


_SPELLINGS = {
    "secure_aggregation": ("--secure-aggregation/--no-secure-aggregation",),
    "shuffle_order": ("--shuffle-order",),
    "ignore_weights": ("--ignore-weights",),
}
_OF_TRAINERS = {
    "schedule": ("dp-sgd.schedule", "dp-sgd: synchronous or local. A number: so many trainings."),
    "module": ("torch.module", "torch: mf, recommender-net, neumf, attention, autoencoder, two-tower, or your own."),
    "loss": ("dp-sgd.loss", "dp-sgd: implicit-als, softmax, sampled-softmax, bce, bpr."),
}


def run_options(*names: str, **texts: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Options for keys of a run, made of the fields of its configuration.

    The command takes them as `given`: a mapping of the keys that were given.

    Args:
        names: fields, in the order of the help; the command's own options follow, those that it needs come first.
        texts: what help says of some of them, in place of the field's own words.
    """

    def with_options(command: Callable[..., None]) -> Callable[..., None]:
        own = [one for one in inspect.signature(command, eval_str=True).parameters.values() if one.name != "given"]
        made = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name, texts.get(name))
            )
            for name in names
        ]
        optional = [one for one in own if one.kind is inspect.Parameter.KEYWORD_ONLY and one.default is not one.empty]
        parameters = [*(one for one in own if one not in optional), *made, *optional]

        @wraps(command)
        def run(**arguments: Any) -> None:
            values = {name: arguments.pop(name) for name in names}
            given = {_OF_TRAINERS.get(n, (n.replace("_", "-"),))[0]: v for n, v in values.items() if v is not None}
            command(**arguments, given=_with_words(given))

        vars(run)["__signature__"] = inspect.Signature(parameters)
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return with_options


def _option(name: str, text: str | None) -> Any:
    if name in _OF_TRAINERS:
        return Annotated[str | None, typer.Option(help=_OF_TRAINERS[name][1])]
    declared = {one.name: (kind, one) for kind in (FederationConfig, SimulationConfig) for one in fields(kind)}
    owner, field = declared[name]
    kind = bool if name in _SPELLINGS else get_type_hints(owner)[name]
    option = typer.Option(*_SPELLINGS.get(name, ()), help=text or field.metadata["help"])
    return Annotated[kind | None, option]


def settings_of(pairs: Sequence[str]) -> dict[str, object]:
    """Read KEY=VALUE with values as in TOML; what is no TOML is a text.

    Raises:
        ConfigurationError: it is something else, or nothing reads the key.
    """
    keys: dict[str, object] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ConfigurationError(f"Expected --set KEY=VALUE, got {pair!r}.")
        keys[key] = parse_value(text)
    check_run_keys(keys, place="a run (--set)")
    return keys


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
    given: Mapping[str, Any], settings: list[str] | None, *, terms: "LedgerTerms | None" = None
) -> FederationConfig:
    """The configuration of a planned run: what was given, else the terms of a ledger, else the defaults of a run."""
    promised: dict[str, object] = {}
    if terms is not None:
        promised = {
            "delta": terms.guarantee.delta,
            "max-silos-per-user": terms.guarantee.max_silos_per_user,
            "declared-users": terms.declared_users,
        }
    return parse(FederationConfig, promised | settings_of(settings or []) | dict(given))


def _with_words(keys: Mapping[str, Any]) -> dict[str, Any]:
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
