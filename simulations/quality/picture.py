"""Quality against epsilon for 1, 10 and 100 silos, readable in print and without colour vision."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from simulations.quality.page import means_of
from simulations.quality.points import BARS, EPSILONS

# Okabe and Ito's palette; markers and dashes tell the lines apart without colour.
_LINES = {
    (1, "own"): ("1 silo", "#000000", "D", "-"),
    (10, "masked"): ("10 silos, noise once on the sum", "#0072B2", "s", "-"),
    (100, "masked"): ("100 silos, noise once on the sum", "#56B4E9", "^", "-"),
    (10, "own"): ("10 silos, each adds all of the noise", "#D55E00", "o", "--"),
    (100, "own"): ("100 silos, each adds all of the noise", "#E69F00", "v", "--"),
}
_TITLES = {"random90": "random90 split, public item features", "ultragcn": "UltraGCN split, no item features"}


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Write the picture as PNG: one panel a protocol, error bars of one standard deviation over seeds."""
    figure = Figure(figsize=(10.4, 4.6), dpi=150, layout="constrained")
    axes = figure.subplots(1, len(BARS), sharey=True)
    for place, protocol in zip(axes, BARS, strict=True):
        _panel(place, protocol, record)
    axes[0].set_ylabel("Recall@20")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


def _panel(place: Axes, protocol: str, record: Mapping[str, Any]) -> None:
    for (silos, noise), (label, colour, marker, dashes) in _LINES.items():
        found = means_of(record, table="silos", protocol=protocol, silos=silos, noise=noise)
        at = [epsilon for epsilon in EPSILONS if epsilon in found]
        if not at:
            continue
        place.errorbar(
            at, [statistics.fmean(found[epsilon]) for epsilon in at],
            [statistics.stdev(found[epsilon]) if len(found[epsilon]) > 1 else 0.0 for epsilon in at],
            label=label, color=colour, marker=marker, linestyle=dashes, capsize=3, linewidth=1.6, markersize=5.5,
        )  # fmt: skip
    (without,) = means_of(record, table="silos", protocol=protocol, noise="none").values()
    best = record["baselines"][protocol]
    for name, value, style, x in (
        ("popularity, not private", best["popularity"]["recall@20"], ":", 0.98),
        ("no noise, not private", statistics.fmean(without), "-.", 0.98),
        ("EASE, all users in one place, not private", best["ease"]["recall@20"], "--", 0.02),
    ):
        place.axhline(value, color="#009E73" if "EASE" in name else "#000000", linestyle=style, linewidth=1.1)
        # The two best are close to each other: only the higher has its name above.
        below = best["popularity"]["recall@20"] < value < max(statistics.fmean(without), best["ease"]["recall@20"])
        place.annotate(
            name, (x, value), xycoords=("axes fraction", "data"), xytext=(0, -3 if below else 3),
            textcoords="offset points", fontsize=8,
            ha="right" if x > 0.5 else "left", va="top" if below else "bottom",
        )  # fmt: skip
    place.set_xscale("log", base=2)
    place.set_xticks(EPSILONS, [f"{epsilon:g}" for epsilon in EPSILONS])
    place.set_xlim(min(EPSILONS) / 1.2, max(EPSILONS) * 1.2)
    place.set_xlabel("epsilon of every user (log scale)")
    place.set_title(_TITLES[protocol], fontsize=10)
    place.yaxis.set_major_locator(MultipleLocator(0.05))
    place.grid(axis="y", color="0.9", linewidth=0.8)
    place.spines[["top", "right"]].set_visible(False)
