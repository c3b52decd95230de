"""Pictures, by matplotlib where it is installed (`recsys-fed[plots]`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recsys_fed.report.picture import new_picture, write_picture

_USED, _REFUSED, _LIMIT = "#2a6f97", "#c1121f", "#444444"


def draw_budget(record: Mapping[str, Any], path: Path) -> None:
    """Draw the record of a budget over runs: epsilon after each, the limit, and the runs that are refused.

    Raises:
        ConfigurationError: matplotlib is not installed, or the picture cannot be written.
    """
    figure = new_picture(7.0, 4.0)
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    axes = figure.subplots()
    steps = [step for step in record["runs"] if not isinstance(step["epsilon"], str)]
    runs = [0, *(step["run"] for step in steps)]
    fitting = [(0, record["epsilon_spent"]), *((step["run"], step["epsilon"]) for step in steps if step["fits"])]
    axes.plot(
        *zip(*fitting, strict=True),
        color=_USED,
        linewidth=1.5,
        marker="o",
        markersize=4,
        label="spent in all",
        zorder=2,
    )
    refused = [(step["run"], step["epsilon"]) for step in steps if not step["fits"]]
    if refused:
        axes.scatter(
            [run for run, _ in refused],
            [epsilon for _, epsilon in refused],
            color=_REFUSED,
            marker="x",
            label="refused",
            zorder=3,
        )
    if not isinstance(record["epsilon_limit"], str):
        axes.axhline(record["epsilon_limit"], color=_LIMIT, linestyle="--", linewidth=1.2, label="limit")
    dates = [step["date"] for step in steps]
    if all(dates) and dates:
        every = max(1, len(runs) // 8)
        axes.set_xticks(runs[1::every], dates[::every], rotation=30, ha="right")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("retrainings")
    axes.set_ylabel(f"epsilon at delta {record['delta']:g}")
    axes.set_ylim(bottom=0)
    axes.set_title(f"Each retraining alone costs epsilon {record['epsilon_of_a_run']:.4g}", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    write_picture(figure, path)
