"""What `recsys-fed federation` and `recsys-fed silo` print."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from recsys_fed.report.console import new_console, new_table, print_table

_console = new_console(highlight=False)


def print_findings(findings: Sequence[Mapping[str, Any]]) -> None:
    """One line a check."""
    table = new_table("", "check", "what was found", box=None, padding=(0, 2, 0, 0))
    for finding in findings:
        mark = Text("good", style="green") if finding["good"] else Text("BAD", style="bold red")
        table.add_row(mark, finding["name"], Text(str(finding["detail"])))
    print_table(_console, table, keys=2)


def print_status(record: Mapping[str, Any]) -> None:
    """Server, certificate, nodes and trainings of a federation."""
    server = record["server"]
    _console.print(f"{record['name']} at {record['address']}: {server}", markup=False)
    _console.print(f"server certificate until {record['certificate_until']}", markup=False)
    silos = new_table("silo", "status", "ledger key")
    for silo in record["silos"]:
        silos.add_row(Text(silo["name"]), silo["status"], silo["ledger_key"][:16])
    print_table(_console, silos)
    trainings = new_table("training", "rounds", "silos in the last", "refused messages", "")
    for one in record["trainings"]:
        rounds = f"{one['rounds']} of {one['planned'] or '?'}"
        done = "complete" if one["complete"] else "not complete"
        trainings.add_row(Text(one["training"]), rounds, str(one["answered"]), str(one["refused"]), done)
    print_table(_console, trainings)


def print_silo_status(record: Mapping[str, Any]) -> None:
    """Budget, model and messages of a silo."""
    spent = f"epsilon {record['epsilon_spent']:.4f} of {record['epsilon_limit']:g} is spent"
    _console.print(f"{record['name']} in the federation at {record['address']}", markup=False)
    _console.print(f"{spent} on {record['releases']} releases", markup=False)
    _console.print(f"model in use: {record['model'][:16] or 'none yet'}", markup=False)
    messages = new_table("messages", "of", "how many")
    for kind in ("answered", "refused", "failed"):
        for name, count in record[f"messages_{kind}"].items():
            messages.add_row(kind, Text(name), str(count))
    print_table(_console, messages, keys=2)


def print_ranking(items: Sequence[Mapping[str, Any]]) -> None:
    """A user's recommendations."""
    table = new_table("rank", "item", "title", "score")
    for item in items:
        table.add_row(str(item["rank"]), Text(item["item"]), Text(item["title"]), f"{item['score']:.4f}")
    print_table(_console, table)


def say(line: str) -> None:
    """A line for people, on standard error: standard output is for results."""
    new_console(stderr=True, highlight=False).print(line, markup=False)
