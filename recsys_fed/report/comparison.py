"""The comparison in a terminal and as a picture."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from recsys_fed.comparison.lines import POPULARITY_GROUPS
from recsys_fed.comparison.record import ACTIVITY_GROUPS
from recsys_fed.errors import ConfigurationError

_COLOURS = ("#2a6f97", "#c1121f", "#6a994e", "#bc6c25")


def print_comparison(record: Mapping[str, Any]) -> None:
    """One table, and one sentence a silo."""
    console = Console()
    console.print(
        f"[bold]{record['data']}: {record['n_users']:,} users, {record['n_items']:,} items, "
        f"{record['n_silos']} silos[/]", soft_wrap=True,
    )  # fmt: skip
    console.print(_table(record, ("Recall@20 (95%)", "NDCG@20 (95%)"), _figures))
    console.print("Recall@20 of users by length of history, and of test items by frequency", highlight=False)
    console.print(_table(record, (*ACTIVITY_GROUPS, *POPULARITY_GROUPS), _groups))
    for sentence in record["sentences"]:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    console.print(record["note"], style="dim", soft_wrap=True)


def draw_comparison(record: Mapping[str, Any], path: Path) -> None:
    """Recall@20 against epsilon, with intervals; what has no budget is a horizontal line.

    Raises:
        ConfigurationError: matplotlib is not installed, or the picture cannot be written.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  (optional, and slow to import)
    except ImportError as error:
        raise ConfigurationError(
            'Expected matplotlib for a picture: pip install "recsys-fed[plots]". Without --plot there is a table.'
        ) from error
    figure = Figure(figsize=(7.5, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    private = [line for line in record["lines"] if line["epsilon"] != "inf"]
    names = list(dict.fromkeys(line["method"] for line in private))
    for name, colour in zip(names, _COLOURS, strict=False):
        points = [line for line in private if line["method"] == name]
        figures = [point["recall@20"] for point in points]
        means = [value["mean"] for value in figures]
        errors = [[value["mean"] - value["low"] for value in figures], [v["high"] - v["mean"] for v in figures]]
        axes.errorbar([point["epsilon"] for point in points], means, yerr=errors, color=colour, marker="o",
                      capsize=3, label=name)  # fmt: skip
    for style, line in zip(
        ("-", "--", "-.", ":"), [x for x in record["lines"] if x["epsilon"] == "inf"], strict=False
    ):
        axes.axhline(line["recall@20"]["mean"], color="#555555", linestyle=style, linewidth=1,
                     label=f"{line['method']} ({line['note']})")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xlabel("epsilon")
    axes.set_ylabel("Recall@20")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"Expected to write a picture to {path}: {error}.") from error


def _table(
    record: Mapping[str, Any], headings: Sequence[str], cells: Callable[[Mapping[str, Any]], list[str]]
) -> Table:
    table = Table()
    for heading in ("method", "epsilon", *headings):
        table.add_column(heading)
    for line in record["lines"]:
        name = f"{line['method']} ({line['note']})" if line["note"] else line["method"]
        table.add_row(name, "-" if line["epsilon"] == "inf" else f"{line['epsilon']:g}", *cells(line))
    return table


def _figures(line: Mapping[str, Any]) -> list[str]:
    return [_figure(line["recall@20"]), _figure(line["ndcg@20"])]


def _groups(line: Mapping[str, Any]) -> list[str]:
    groups = [line["by_activity"][name] for name in ACTIVITY_GROUPS]
    groups += [line["by_item_popularity"][name] for name in POPULARITY_GROUPS]
    return [f"{group['mean']:.3f}" if group else "-" for group in groups]


def _figure(value: Mapping[str, float] | None) -> str:
    return f"{value['mean']:.3f} ({value['low']:.3f}-{value['high']:.3f})" if value else "-"
