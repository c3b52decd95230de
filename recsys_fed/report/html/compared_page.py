"""Sections of `recsys-fed compare`: should we federate? Quality against epsilon, by group, and silo by silo."""

from collections.abc import Iterator, Mapping
from typing import Any

from recsys_fed.comparison.compare import BOTH, GLOBAL, LOCAL, POPULARITY_GROUPS
from recsys_fed.comparison.record import ACTIVITY_GROUPS
from recsys_fed.report.comparison import (
    INTERVALS,
    NEW_ITEM_HEADINGS,
    figure_cells,
    group_cells,
    new_item_rows,
    new_items_heading,
    private_methods,
    rows_of,
)
from recsys_fed.report.html.charts import Series, line_chart
from recsys_fed.report.html.page import Chart, Section, Table, Verdict

_DRAWN = (BOTH, GLOBAL)


def compared_sections(record: Mapping[str, Any]) -> Iterator[Section]:
    """All sections of a comparison's record."""
    pays = sum("joining pays by" in text for text in record["sentences"])
    yield Section(
        anchor="compared",
        title="Should we federate?",
        verdicts=[
            Verdict(
                text=f"Joining pays for {pays} of {record['n_silos']} silos.",
                mood="good" if pays == record["n_silos"] else "plain",
            )
        ],
        paragraphs=[
            f"{record['data']}: {record['n_users']:,} users, {record['n_items']:,} items, {record['n_silos']} silos, "
            f"noise {record['noise']}; seeds: {record['n_seeds']}. {INTERVALS.capitalize()}.",
            f"{record['note'].capitalize()}.",
        ],
        charts=[_chart(record)],
        tables=[_figures(record), _groups(record)],
    )
    yield Section(anchor="by-silo", title="Silo by silo", paragraphs=record["sentences"], folded=[_by_silo(record)])
    if record["new_items"]:
        yield Section(anchor="new-items", title="New items", tables=[_new_items(record)])


def _chart(record: Mapping[str, Any]) -> Chart:
    series = [
        Series(
            name=name,
            x=[line["epsilon"] for line in lines],
            y=[line["recall@20"]["mean"] for line in lines],
            low=[line["recall@20"]["low"] for line in lines],
            high=[line["recall@20"]["high"] for line in lines],
        )
        for name, lines in private_methods(record)
        if name in _DRAWN
    ]
    at = sorted({x for one in series for x in one.x}) or [0.0, 1.0]
    ends = [at[0], at[-1]] if len(at) > 1 else [at[0] / 2, at[0]]
    flat = [line for line in record["lines"] if line["epsilon"] == "inf" and line["recall@20"]]
    ceiling = max((line for line in flat if line["method"].startswith("pooled")),
                  key=lambda line: line["recall@20"]["mean"], default=None)  # fmt: skip
    for line in [line for line in flat if line["method"] == LOCAL] + ([ceiling] if ceiling else []):
        series.append(Series(name=line["method"], x=ends, y=[line["recall@20"]["mean"]] * 2))
    said = "; ".join(
        f"{one.name}: " + ", ".join(f"{y:.3f} at {x:g}" for x, y in zip(one.x, one.y, strict=True)) for one in series
    )
    return line_chart(
        "Recall@20 alone, together and pooled", said, series,
        x_label="epsilon of every user", y_label="Recall@20", figures=_figures(record),
    )  # fmt: skip


def _figures(record: Mapping[str, Any]) -> Table:
    return Table(
        caption="All methods",
        header=["method", "epsilon", "Recall@20 (95%)", "NDCG@20 (95%)"],
        rows=rows_of(record, figure_cells),
        numeric=frozenset({1}),
    )


def _groups(record: Mapping[str, Any]) -> Table:
    header = ["method", "epsilon", *ACTIVITY_GROUPS, *POPULARITY_GROUPS]
    return Table(
        caption="Recall@20 of users by length of history, and of test items by frequency",
        header=header,
        rows=rows_of(record, group_cells),
        numeric=frozenset(range(1, len(header))),
    )


def _by_silo(record: Mapping[str, Any]) -> Table:
    """Recall@20 of every method in every silo."""
    lines = record["lines"]
    heads = [x["method"] + ("" if x["epsilon"] == "inf" else f", epsilon {x['epsilon']:g}") for x in lines]
    return Table(
        caption="Recall@20 by silo",
        header=["silo", "users", *heads],
        rows=[
            [silo["silo"], str(silo["n_users"]),
             *(f"{x['recall@20']['mean']:.3f}" if x["recall@20"] else "-" for x in silo["lines"])]
            for silo in record["silos"]
        ],
        numeric=frozenset(range(1, len(heads) + 2)),
    )  # fmt: skip


def _new_items(record: Mapping[str, Any]) -> Table:
    return Table(
        caption=new_items_heading(record),
        header=NEW_ITEM_HEADINGS,
        rows=new_item_rows(record),
        numeric=frozenset({1, 2, 3}),
    )
