"""What people see of a simulation and of recommendations in a terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.text import Text

from recsys_fed.evaluation.metrics import SHOWN_NAMES
from recsys_fed.report.console import new_console, new_table, print_table

NO_PRIVACY = "epsilon is infinite: no noise is added and nothing is private"
_SHOWN = (*SHOWN_NAMES, "mrr", "coverage@20")


def print_simulation(record: Mapping[str, Any], *, output: Path | None) -> None:
    """The final table of a run."""
    console = new_console()
    console.print(_title(record), style="bold", markup=False)
    figures = (record["trainer"], "exact popularity")
    table = new_table("metric", *figures, right=figures)
    for name in (*_SHOWN, *sorted(n for n in record["metrics"] if n.startswith("sampled"))):
        table.add_row(name, f"{record['metrics'][name]:.4f}", f"{record['popularity'][name]:.4f}")
    print_table(console, table)
    if record["protocol"]["name"]:
        console.print(_protocol(record["protocol"]))
    if record["private_metrics"]:
        console.print(f"as the silos report it, a noised sum: {_private_metrics(record)}")
    console.print(f"[yellow]{record['note']}[/]; {record['noise_note']}")
    if record["epsilon"] == "inf":
        console.print(f"[bold red]{NO_PRIVACY}[/]")
    else:
        spent = max(record["epsilon_spent"].values())
        console.print(
            f"epsilon spent by each silo: {spent:.3f} of {record['epsilon']} at delta {record['delta']}",
        )
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in record["seconds"].items())
    console.print(
        f"{seconds}; peak memory {record['peak_rss_mb']:.0f} MB; "
        f"up {record['bytes_up'] / 1e6:.1f} MB, down {record['bytes_down'] / 1e6:.1f} MB",
    )
    if record["refused"]:
        console.print(f"[red]left out: {len(record['refused'])} answers, first: {record['refused'][0]}[/]")
    if output is not None:
        console.print(f"written to {output}", markup=False)


def print_recommendations(result: Mapping[str, Any]) -> None:
    """History and recommendations as tables."""
    console = new_console()
    for item in result["history"]:
        console.print(f"history: {item['item']} {item['title']}", markup=False, highlight=False)
    table = new_table("rank", "item", "title", "score")
    for row in result["recommendations"]:
        score = f"{row['score']:.4f}" + " new" * row["new"]
        table.add_row(str(row["rank"]), Text(row["item"]), Text(row["title"]), score)
    print_table(console, table)


def _private_metrics(record: Mapping[str, Any]) -> str:
    found = record["private_metrics"].items()
    return ", ".join(f"{name} {m['value']:.4f} (noise +- {m['noise']:.4f})" for name, m in sorted(found))


def _protocol(protocol: Mapping[str, Any]) -> str:
    part = "" if protocol["held_out"] == "test" else f", measured on its {protocol['held_out']} part"
    return f"protocol {protocol['name']} ({', '.join(protocol['metrics'])}){part}: {protocol['note']}"


def _title(record: Mapping[str, Any]) -> str:
    return (
        f"{record['data']}: {record['n_users']:,} users, {record['n_items']:,} items, {record['n_silos']} silos, "
        f"epsilon {record['epsilon']}, {record['rounds']} rounds"
    )
