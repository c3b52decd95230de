"""What people see of a federation, of a silo, and of the experiments of its service."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from recsys_fed.report._page import new_picture, write_picture
from recsys_fed.report.console import new_console, new_table, print_table

_console = new_console(highlight=False)


def print_findings(findings: Sequence[Mapping[str, Any]]) -> None:
    """One line a check."""
    table = new_table("", "check", "what was found", box=None, padding=(0, 2, 0, 0))
    for finding in findings:
        mark = Text("good", style="green") if finding["good"] else Text("BAD", style="bold red")
        table.add_row(mark, finding["name"], Text(str(finding["detail"])))
    print_table(_console, table, keys=2)


def print_federation_status(record: Mapping[str, Any]) -> None:
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


_FIGURES = ("users", "successes", "rate")
_SURE, _OPEN, _ZERO = "#2a6f97", "#8d99ae", "#444444"


def print_experiment(record: Mapping[str, Any]) -> None:
    """Print the record of `serving.experiment`."""
    console = new_console()
    console.print(f"{record['experiment']}: {record['rewards']} within {record['window_hours']:g} h", markup=False)
    table = new_table("variant", *_FIGURES, right=_FIGURES)
    for arm in record["variants"]:
        rate = f"{arm['successes'] / arm['users']:.4f}" if arm["users"] else "-"
        table.add_row(arm["variant"], f"{arm['users']:,}", f"{arm['successes']:,}", rate)
    print_table(console, table)
    for pair in record["comparisons"]:
        verdict = "they differ" if pair["significant"] else "no difference shown so far"
        console.print(
            f"{pair['treatment']} - {pair['control']}: between {pair['low']:+.4f} and {pair['high']:+.4f} at every "
            f"look, p = {pair['p_value']:.4g}: {verdict} (level {record['level']:g})",
        )
    policy = record["off_policy"]
    if policy:
        console.print(
            f"explored places: {policy['places']:,}, of which {policy['estimable']:,} can tell what the model's own "
            "choice would have been worth"
        )
        for name in ("shown", "ips", "self-normalised", "doubly robust"):
            if name in policy:
                one = policy[name]
                console.print(f"  {name}: {one['value']:.4f}, between {one['low']:.4f} and {one['high']:.4f}")


def draw_experiment(record: Mapping[str, Any], path: Path) -> None:
    """Draw each comparison's interval; raises ConfigurationError without matplotlib or where it cannot be written."""
    pairs = record["comparisons"]
    figure = new_picture(7.0, 1.4 + 0.6 * len(pairs))
    axes = figure.subplots()
    for place, pair in enumerate(pairs):
        colour = _SURE if pair["significant"] else _OPEN
        axes.plot([pair["low"], pair["high"]], [place, place], color=colour, linewidth=3, solid_capstyle="butt")
        if None not in pair["means"]:
            axes.plot([pair["means"][1] - pair["means"][0]], [place], marker="o", color=colour)
    axes.axvline(0.0, color=_ZERO, linestyle="--", linewidth=1.0)
    axes.set_yticks(range(len(pairs)), [f"{pair['treatment']} - {pair['control']}" for pair in pairs])
    axes.set_ylim(-0.6, len(pairs) - 0.4)
    axes.set_xlabel(f"difference of success rates, level {record['level']:g} over all looks")
    axes.set_title(f"{record['experiment']}: {sum(arm['users'] for arm in record['variants']):,} users", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    write_picture(figure, path)
