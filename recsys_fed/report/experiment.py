"""The report of an experiment: a table, and a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recsys_fed.report.console import new_console, new_table, print_table
from recsys_fed.report.picture import new_picture, write_picture

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
            f"explored places: {policy['places']:,}; value of what was shown and of the model's own choice:"
        )
        for name in ("shown", "ips", "self-normalised", "doubly robust"):
            console.print(f"  {name}: {policy[name]['value']:.4f} +- {policy[name]['error']:.4f}")


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
