"""The report of an experiment: a table, and a picture."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from recsys_fed.errors import ConfigurationError

_SURE, _OPEN, _ZERO = "#2a6f97", "#8d99ae", "#444444"


def print_experiment(record: Mapping[str, Any]) -> None:
    """Print the record of `serving.experiment`."""
    console = Console()
    table = Table(title=f"{record['experiment']}: {record['rewards']} within {record['window_hours']:g} h")
    for heading in ("variant", "users", "successes", "rate"):
        table.add_column(heading, justify="left" if heading == "variant" else "right")
    for arm in record["variants"]:
        rate = arm["successes"] / arm["users"] if arm["users"] else math.nan
        table.add_row(arm["variant"], f"{arm['users']:,}", f"{arm['successes']:,}", f"{rate:.4f}")
    console.print(table)
    for pair in record["comparisons"]:
        verdict = "they differ" if pair["significant"] else "no difference shown so far"
        console.print(
            f"{pair['treatment']} - {pair['control']}: between {pair['low']:+.4f} and {pair['high']:+.4f} at every "
            f"look, p = {pair['p_value']:.4g}: {verdict} (level {record['level']:g})",
            soft_wrap=True,
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
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  (optional, and slow to import)
    except ImportError as error:
        raise ConfigurationError(
            'Expected matplotlib for a picture: pip install "recsys-fed[plots]". Without --plot there is a table.'
        ) from error
    pairs = record["comparisons"]
    figure = Figure(figsize=(7.0, 1.4 + 0.6 * len(pairs)), dpi=150, layout="constrained")
    axes = figure.subplots()
    for place, pair in enumerate(pairs):
        colour = _SURE if pair["significant"] else _OPEN
        axes.plot([pair["low"], pair["high"]], [place, place], color=colour, linewidth=3, solid_capstyle="butt")
        observed = pair["means"][1] - pair["means"][0]
        if math.isfinite(observed):
            axes.plot([observed], [place], marker="o", color=colour)
    axes.axvline(0.0, color=_ZERO, linestyle="--", linewidth=1.0)
    axes.set_yticks(range(len(pairs)), [f"{pair['treatment']} - {pair['control']}" for pair in pairs])
    axes.set_ylim(-0.6, len(pairs) - 0.4)
    axes.set_xlabel(f"difference of success rates, level {record['level']:g} over all looks")
    axes.set_title(f"{record['experiment']}: {sum(arm['users'] for arm in record['variants']):,} users", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise ConfigurationError(f"Expected to write a picture to {path}: {error}.") from error
