"""Sections of several runs beside each other: quality against epsilon, and what each cost in each silo."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from recsys_fed.report.html.charts import Series, line_chart
from recsys_fed.report.html.figures import finite, number
from recsys_fed.report.html.page import Chart, Section, Table

_METRIC = "recall@20"
_LINES = 3

Runs = Sequence[tuple[str, Mapping[str, Any]]]


def comparison_sections(runs: Runs) -> Iterator[Section]:
    """All sections of a comparison of named runs' metrics records."""
    yield Section(
        anchor="comparison",
        title="Quality against epsilon",
        paragraphs=[
            "A smaller epsilon protects better. Figures are from simulations, whose metrics are not privatised."
        ],
        charts=[_chart(runs)],
        tables=[_table(runs)],
    )
    yield Section(
        anchor="silos",
        title="Epsilon by silo",
        paragraphs=["Recomputed from the events of each run. Of silos with disjoint users the worst one counts."],
        tables=[_by_silo(runs)],
    )
    yield Section(
        anchor="guarantees",
        title="What each run promises",
        tables=[
            Table(
                caption="Guarantees",
                header=["run", "promise to every user"],
                rows=[[name, record["guarantee"]] for name, record in runs],
            )
        ],
    )


def _chart(runs: Runs) -> Chart:
    lines: defaultdict[str, defaultdict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _, record in runs:
        epsilon = finite(record["epsilon"])
        if epsilon is not None:
            lines[f"{record['trainer']}, noise {record['noise']}"][epsilon].append(record["metrics"][_METRIC])
    series = [
        Series(name=name, x=sorted(points), y=[mean(points[epsilon]) for epsilon in sorted(points)])
        for name, points in sorted(lines.items())[:_LINES]
    ]
    popular = mean(record["popularity"][_METRIC] for _, record in runs)
    spread = [epsilon for one in series for epsilon in one.x] or [0.0, 1.0]
    series.append(Series(name="popularity, not private", x=[min(spread), max(spread)], y=[popular, popular]))
    said = "; ".join(
        f"{one.name}: " + ", ".join(f"{y:.3f} at {x:g}" for x, y in zip(one.x, one.y, strict=True)) for one in series
    )
    return line_chart(
        f"{_METRIC} against epsilon",
        said,
        series,
        x_label="epsilon of every user",
        y_label=_METRIC,
        figures=_table(runs),
    )


def _table(runs: Runs) -> Table:
    return Table(
        caption="Runs",
        header=["run", "data", "trainer", "noise", "epsilon", "silos", _METRIC, "ndcg@20", "popularity"],
        rows=[
            [
                name,
                record["data"],
                record["trainer"],
                record["noise"],
                str(record["epsilon"]),
                str(record["n_silos"]),
                number(record["metrics"][_METRIC], 4),
                number(record["metrics"]["ndcg@20"], 4),
                number(record["popularity"][_METRIC], 4),
            ]
            for name, record in runs
        ],
        numeric=frozenset({4, 5, 6, 7, 8}),
    )


def _by_silo(runs: Runs) -> Table:
    silos = sorted(
        {silo for _, record in runs for silo in record["epsilon_spent"]}, key=lambda name: (len(name), name)
    )
    return Table(
        caption="Epsilon spent by each silo in each run",
        header=["silo", *(name for name, _ in runs)],
        rows=[[silo, *(number(record["epsilon_spent"].get(silo)) for _, record in runs)] for silo in silos],
        numeric=frozenset(range(1, len(runs) + 1)),
    )
