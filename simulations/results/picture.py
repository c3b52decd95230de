"""Quality against epsilon as a picture that can be read in print and without colour vision."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from simulations.results.points import DATA

METRIC = "recall@20"
# Okabe and Ito's palette, which stays apart for every common kind of colour vision; markers and dashes as well.
_BLUE, _ORANGE, _GREEN, _BLACK = "#0072B2", "#D55E00", "#009E73", "#000000"
_LINES = {
    ("spectral", "masked"): ("spectral, secure aggregation: noise once on the sum", _BLUE, "s", "-"),
    ("spectral", "own"): ("spectral, each silo adds all of the noise", _ORANGE, "o", "--"),
}
_DP_SGD = {
    "masked": ("dp-sgd, secure aggregation", _BLUE, "^"),
    "own": ("dp-sgd, each silo adds all of the noise", _ORANGE, "v"),
}


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Write the picture as PNG: one panel a data set, error bars of one standard deviation over seeds."""
    specs = list(record["data"])
    figure = Figure(figsize=(5.2 * len(specs), 4.4), dpi=150, layout="constrained")
    axes = figure.subplots(1, len(specs), sharey=True, squeeze=False)[0]
    for place, spec in zip(axes, specs, strict=True):
        _panel(place, spec, record)
    axes[0].set_ylabel("Recall@20")
    handles, labels = axes[0].get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda place: labels[place].startswith("dp-sgd"))
    handles, labels = [handles[place] for place in order], [labels[place] for place in order]
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


def _panel(place: Axes, spec: str, record: Mapping[str, Any]) -> None:
    points = [point for point in record["points"] if point["data"] == spec]
    for (trainer, noise), (label, colour, marker, dashes) in _LINES.items():
        place.errorbar(
            *_series(points, trainer=trainer, noise=noise),
            label=label, color=colour, marker=marker, linestyle=dashes, capsize=3, linewidth=1.6, markersize=6,
        )  # fmt: skip
    for noise, (label, colour, marker) in _DP_SGD.items():
        x, y, _ = _series(points, trainer="dp-sgd", noise=noise)
        place.plot(x, y, label=label, color=colour, marker=marker, linestyle="none", fillstyle="none", markersize=7)
    _references(place, record["data"][spec], points)
    place.set_xscale("log", base=2)
    budgets = sorted({point["epsilon"] for point in points if point["epsilon"] != "inf"})
    place.set_xticks(budgets, [f"{epsilon:g}" for epsilon in budgets])
    place.set_xlim(min(budgets) / 1.2, max(budgets) * 1.2)
    place.set_xlabel("epsilon of every user (log scale)")
    place.set_title(f"{DATA[spec]}, {record['silos']} silos", fontsize=10)
    place.yaxis.set_major_locator(MultipleLocator(0.05))
    place.grid(axis="y", color="0.9", linewidth=0.8)
    place.spines[["top", "right"]].set_visible(False)


def _series(
    points: list[Mapping[str, Any]], *, trainer: str, noise: str
) -> tuple[list[float], list[float], list[float]]:
    """Epsilons, means and standard deviations of one line (without schedules of local steps)."""
    chosen = [
        point
        for point in points
        if point["trainer"] == trainer
        and point["noise"] == noise
        and point["epsilon"] != "inf"
        and point["schedule"] != "local"
    ]
    values = [point["metrics"][METRIC] for point in chosen]
    means = [statistics.fmean(one) for one in values]
    deviations = [statistics.stdev(one) if len(one) > 1 else 0.0 for one in values]
    return [point["epsilon"] for point in chosen], means, deviations


def _references(place: Axes, facts: Mapping[str, Any], points: list[Mapping[str, Any]]) -> None:
    """Horizontal lines with their names on them."""
    without = next(p for p in points if p["trainer"] == "spectral" and p["epsilon"] == "inf")
    lines = (
        ("popularity, not private", facts["popularity"][METRIC], ":", _BLACK, "right"),
        ("spectral without noise, not private", statistics.fmean(without["metrics"][METRIC]), "-.", _BLACK, "left"),
        ("EASE, all users in one place, not private", facts["ease"][METRIC], (0, (8, 3)), _GREEN, "left"),
    )
    highest = max(value for _, value, *_ in lines)
    for name, value, dashes, colour, side in lines:
        place.axhline(value, color=colour, linestyle=dashes, linewidth=1.2)
        # Curves rise from the left: low names go to the right, high ones to the left, the two high ones apart.
        at, above = (0.98 if side == "right" else 0.02, value), side == "right" or value == highest
        place.annotate(
            name, at, xycoords=("axes fraction", "data"), xytext=(0, 3 if above else -3),
            textcoords="offset points", fontsize=8, color=colour, ha=side, va="bottom" if above else "top",
        )  # fmt: skip
