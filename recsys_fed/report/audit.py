"""An audit as people see it in a terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from recsys_fed.report.console import new_console, new_table, print_table


def print_audit_of_run(record: Mapping[str, Any], *, output: Path) -> None:
    """Verdict, bounds beside the ledger's figure, and what the audit caught elsewhere."""
    console = new_console()
    spent = [value for value in record["ledger_epsilon"].values() if not isinstance(value, str)]
    console.print(
        f"[bold]{record['data']}: claimed epsilon {record['claimed_epsilon']:g} at delta {record['delta']:g}, upper "
        f"bound by the ledger {max(spent, default=float('inf')):.3f}[/]",
        highlight=False,
    )
    bounds = new_table("confidence", "one run", "f-DP one run", "Gaussian fit (an estimate)")
    for one in record["this_run"]["bounds"]:
        estimate = one["gaussian"]
        fit = f"{estimate['epsilon']:.3f}, lower limit {estimate['epsilon_low']:.3f}"
        bounds.add_row(f"{one['confidence']:.0%}", f"{one['one_run']:.3f}", f"{one['one_run_fdp']:.3f}", fit)
    print_table(console, bounds)
    console.print(f"ideal canaries would reach {record['ceiling']:.3f} (f-DP, 95%)", highlight=False)
    for one in record["boundary"]:
        colour = "bold red" if one["breached"] else "bold green"
        caught = ", ".join(name for name, seen in one.get("broken_copies_caught", {}).items() if seen)
        console.print(
            f"[{colour}]{one['name']}[/]: {one['found']}" + (f" Caught elsewhere: {caught}." if caught else ""),
            highlight=False,
        )
    if record["this_run"]["caught"]:
        console.print(f"[bold red]contradicted[/] by {', '.join(record['this_run']['caught_by'])}")
    else:
        tests = len(record["this_run"]["findings"])
        console.print(f"[bold green]nothing contradicts the claim[/] ({tests} tests of the mechanism)")
    _print_power(console, record)
    console.print(record["note"], highlight=False)
    console.print(f"written to {output}; as a page: recsys-fed report {output}", highlight=False)


def _print_power(console: Console, record: Mapping[str, Any]) -> None:
    if not record["power"]:
        return
    table = new_table("the same audit of", "caught", "by")
    for one in record["power"]:
        more = len(one["caught_by"]) - 1
        by = one["caught_by"][0] + (f" and {more} more" if more else "") if one["caught"] else "-"
        table.add_row(one["name"], "yes" if one["caught"] else "no", by)
    print_table(console, table)
