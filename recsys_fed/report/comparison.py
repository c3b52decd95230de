"""The comparison "should we federate?" in a terminal, as a picture, and on a page."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from recsys_fed.comparison.compare import BOTH, GLOBAL, LOCAL
from recsys_fed.comparison.new_items import MAPPED
from recsys_fed.comparison.record import label_metric
from recsys_fed.config import current_noise
from recsys_fed.evaluation.metrics import ACTIVITY_GROUPS, ERRORS, HEADLINE_NAMES, POPULARITY_GROUPS
from recsys_fed.report._page import Chart, Section, Series, Table, Verdict, line_chart, new_picture, write_picture
from recsys_fed.report.console import print_sections

_COLOURS = ("#2a6f97", "#c1121f", "#6a994e", "#bc6c25")
_MARKERS = ("s", "o", "D", "^")
_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_KEYS = 2  # method and epsilon
_INTERVALS = "intervals: 95%, over users and, where there are several, seeds"


def print_comparison(record: Mapping[str, Any]) -> None:
    """All figures, groups of users and items, and one sentence a silo."""
    print_sections(compared_sections(record))


def _rating_sections(record: Mapping[str, Any]) -> Iterator[Section]:
    lines, seeds = record["lines"], len(record["seeds"])
    groups = [name for name in (*ACTIVITY_GROUPS, *POPULARITY_GROUPS) if name in lines[0]["errors"]]
    spread = f"mean over {seeds} seeds and their standard deviation" if seeds > 1 else "one seed"
    yield Section(
        anchor="compared",
        title="Should we federate? Errors of predicted ratings",
        paragraphs=[
            f"{record['data']}: {record['n_users']:,} users, {record['n_items']:,} items, {record['n_silos']} silos, "
            f"delta {record['delta']:g}; {spread}. Errors are not privatised: a simulator computes them."
        ],
        tables=[
            Table(
                caption="Errors of held-out ratings",
                header=["method", "epsilon", *(name.upper() for name in ERRORS)],
                rows=_rows_of(record, lambda line: [_error(line["errors"]["overall"][name]) for name in ERRORS]),
                numeric=frozenset({1, 2, 3}),
                keys=_KEYS,
            ),
            Table(
                caption="RMSE by groups of users and items",
                header=["method", "epsilon", *groups],
                rows=_rows_of(record, lambda line: [f"{line['errors'][x]['rmse']['mean']:.3f}" for x in groups]),
                numeric=frozenset(range(1, 2 + len(groups))),
                keys=_KEYS,
            ),
        ],
    )


def _error(value: Mapping[str, float | None]) -> str:
    return f"{value['mean']:.4f}" + (f" +- {value['std']:.4f}" if value["std"] is not None else "")


def draw_comparison(record: Mapping[str, Any], path: Path) -> None:
    """The first metric against epsilon, with intervals; what has no budget is a horizontal line.

    Raises:
        ConfigurationError: matplotlib is not installed, or the picture cannot be written.
    """
    figure = new_picture(9.5, 4.8)
    from matplotlib.ticker import NullFormatter, ScalarFormatter  # noqa: PLC0415

    axes, told = figure.subplots(), _metrics(record)[0]
    epsilons = _draw_private(axes, record)
    flat = [line for line in record["lines"] if line["epsilon"] == "inf" and line[told]]
    for style, line in zip(_STYLES, flat, strict=False):
        axes.axhline(line[told]["mean"], color="#555555", linestyle=style, linewidth=1.2, label=_name(line))
    axes.set_xscale("log", base=2)
    axes.set_xticks(epsilons)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("epsilon of every user")
    axes.set_ylabel(label_metric(told))
    axes.set_ylim(bottom=0)
    axes.set_title(f"{record['data']}, {record['n_silos']} silos", fontsize=10)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    write_picture(figure, path, kind=None)


def _private_methods(record: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Methods that have a budget, each with its lines by ascending epsilon."""
    private = [line for line in record["lines"] if line["epsilon"] != "inf" and line[_metrics(record)[0]]]
    names = dict.fromkeys(line["method"] for line in private)
    return [(name, sorted((x for x in private if x["method"] == name), key=lambda x: x["epsilon"])) for name in names]


def _rows_of(record: Mapping[str, Any], cells: Callable[[Mapping[str, Any]], list[str]]) -> list[list[str]]:
    """A row a line: method, budget, and cells."""
    return [
        [_name(line), "-" if line["epsilon"] == "inf" else f"{line['epsilon']:g}", *cells(line)]
        for line in record["lines"]
    ]


def _metrics(record: Mapping[str, Any]) -> list[str]:
    """The metrics of the comparison, the one that is told first."""
    return list(record.get("metrics", HEADLINE_NAMES))


def _labels(record: Mapping[str, Any]) -> list[str]:
    return [label_metric(name) for name in _metrics(record)]


def _figure_cells(record: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], list[str]]:
    """The metrics of a line with their intervals."""
    return lambda line: [_figure(line[name]) for name in _metrics(record)]


def _group_cells(line: Mapping[str, Any]) -> list[str]:
    """Recall@20 of all groups of users and items."""
    groups = [line["by_activity"][name] for name in ACTIVITY_GROUPS]
    groups += [line["by_item_popularity"][name] for name in POPULARITY_GROUPS]
    return [f"{group['mean']:.3f}" if group else "-" for group in groups]


def _draw_private(axes: Any, record: Mapping[str, Any]) -> list[float]:
    """Curves of the private methods; returns all budgets."""
    epsilons: set[float] = set()
    for (name, points), colour, marker in zip(_private_methods(record), _COLOURS, _MARKERS, strict=False):
        figures = [point[_metrics(record)[0]] for point in points]
        means = [value["mean"] for value in figures]
        errors = [[v["mean"] - v["low"] for v in figures], [v["high"] - v["mean"] for v in figures]]
        at = [point["epsilon"] for point in points]
        axes.errorbar(at, means, yerr=errors, color=colour, marker=marker, markersize=5, capsize=3, label=name)
        epsilons |= set(at)
    return sorted(epsilons)


def _name(line: Mapping[str, Any]) -> str:
    return f"{line['method']} ({line['note']})" if line["note"] else str(line["method"])


def _figure(value: Mapping[str, float] | None) -> str:
    return f"{value['mean']:.4f} ({value['low']:.4f} to {value['high']:.4f})" if value else "-"


_DRAWN = (BOTH, GLOBAL)


def compared_sections(record: Mapping[str, Any]) -> Iterator[Section]:
    """All sections of a comparison's record."""
    if record.get("target") == "rating":
        yield from _rating_sections(record)
        return
    pays = sum("joining pays by" in text for text in record["sentences"])
    # Records of earlier versions do not say.
    words = {None: "not noted", True: "on", False: "off"}
    masked = f"secure aggregation {words[record.get('secure_aggregation')]}"
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
            f"noise {current_noise(record['noise'])}, {masked}; seeds: {record['n_seeds']}. "
            f"{_INTERVALS.capitalize()}.",
            f"{record['note'].capitalize()}.",
        ],
        charts=[_chart(record)],
        tables=[_figures_table(record), _groups_table(record), *_beyond_tables(record)],
    )
    yield Section(anchor="by-silo", title="Silo by silo", paragraphs=record["sentences"], folded=[_by_silo(record)])
    if record.get("by_attribute"):
        yield Section(
            anchor="by-attribute",
            title="Groups of users",
            paragraphs=[_worst_sentence(name, lines) for name, lines in record["by_attribute"].items()],
            tables=[_attribute_table(name, lines) for name, lines in record["by_attribute"].items()],
        )
    if record.get("fusion"):
        yield Section(
            anchor="fusion",
            title="Attributes and contexts in the silo",
            paragraphs=[
                "Effects of what a silo knows of its users and of a request, beside the score; taken where they win "
                "on the silo's validation users, and never released. Means over silos and seeds; of test no choice "
                "was made."
            ],
            tables=[_fusion_table(record["fusion"])],
        )
    if record["new_items"]:
        yield Section(anchor="new-items", title="New items", tables=[_new_items_table(record)])


def _chart(record: Mapping[str, Any]) -> Chart:
    told = _metrics(record)[0]
    series = [
        Series(
            name=name,
            x=[line["epsilon"] for line in lines],
            y=[line[told]["mean"] for line in lines],
            low=[line[told]["low"] for line in lines],
            high=[line[told]["high"] for line in lines],
        )
        for name, lines in _private_methods(record)
        if name in _DRAWN
    ]
    at = sorted({x for one in series for x in one.x}) or [0.0, 1.0]
    ends = [at[0], at[-1]] if len(at) > 1 else [at[0] / 2, at[0]]
    flat = [line for line in record["lines"] if line["epsilon"] == "inf" and line[told]]
    ceiling = max((line for line in flat if line["method"].startswith("pooled")),
                  key=lambda line: line[told]["mean"], default=None)  # fmt: skip
    for line in [line for line in flat if line["method"] == LOCAL] + ([ceiling] if ceiling else []):
        series.append(Series(name=line["method"], x=ends, y=[line[told]["mean"]] * 2))
    said = "; ".join(
        f"{one.name}: " + ", ".join(f"{y:.3f} at {x:g}" for x, y in zip(one.x, one.y, strict=True)) for one in series
    )
    return line_chart(
        f"{label_metric(told)} alone, together and pooled", said, series,
        x_label="epsilon of every user", y_label=label_metric(told), figures=_figures_table(record),
    )  # fmt: skip


def _figures_table(record: Mapping[str, Any]) -> Table:
    return Table(
        caption="All methods",
        header=["method", "epsilon", *(f"{label} (95%)" for label in _labels(record))],
        rows=_rows_of(record, _figure_cells(record)),
        numeric=frozenset({1}),
        keys=_KEYS,
    )


def _groups_table(record: Mapping[str, Any]) -> Table:
    header = ["method", "epsilon", *ACTIVITY_GROUPS, *POPULARITY_GROUPS]
    return Table(
        caption="Recall@20 of users by length of history, and of test items by frequency",
        header=header,
        rows=_rows_of(record, _group_cells),
        numeric=frozenset(range(1, len(header))),
        keys=_KEYS,
    )


def _beyond_tables(record: Mapping[str, Any]) -> list[Table]:
    """What is recommended beside what is hit; records of earlier versions have none of it."""
    if not all("beyond_accuracy" in line for line in record["lines"]):
        return []
    names = ["coverage", "gini", *POPULARITY_GROUPS]

    def cells(line: Mapping[str, Any]) -> list[str]:
        found = line["beyond_accuracy"]
        return [f"{found[name]:.3f}" if found else "-" for name in names]

    return [
        Table(
            caption="What is recommended: share of the catalogue, Gini index of exposure, share of thirds of items",
            header=["method", "epsilon", *names],
            rows=_rows_of(record, cells),
            numeric=frozenset(range(1, len(names) + 2)),
            keys=_KEYS,
        )
    ]


def _by_silo(record: Mapping[str, Any]) -> Table:
    """The first metric of every method in every silo."""
    lines, told = record["lines"], _metrics(record)[0]
    heads = [x["method"] + ("" if x["epsilon"] == "inf" else f", epsilon {x['epsilon']:g}") for x in lines]
    return Table(
        caption=f"{label_metric(told)} by silo",
        header=["silo", "users", *heads],
        rows=[
            [silo["silo"], str(silo["n_users"]),
             *(f"{x[told]['mean']:.3f}" if x[told] else "-" for x in silo["lines"])]
            for silo in record["silos"]
        ],
        numeric=frozenset(range(1, len(heads) + 2)),
    )  # fmt: skip


def _attribute_table(name: str, lines: list[Mapping[str, Any]]) -> Table:
    """Recall@20 of each group; the users of a group in its head."""
    sizes = {value: one["n_users"] for line in lines for value, one in line["groups"].items()}
    return Table(
        caption=f"Recall@20 of users by {name} (users with a test item)",
        header=["method", "epsilon", *(f"{value} ({size:,})" for value, size in sizes.items()), "lowest"],
        rows=[
            [
                _name(line),
                "-" if line["epsilon"] == "inf" else f"{line['epsilon']:g}",
                *(_figure(line["groups"].get(value)) for value in sizes),
                line["worst"] or "-",
            ]
            for line in lines
        ],
        numeric=frozenset(range(1, 2 + len(sizes))),
        keys=_KEYS,
    )


def _worst_sentence(name: str, lines: list[Mapping[str, Any]]) -> str:
    """Which group is served worst by the model of the largest budget, and by how much beside the best."""
    private = [line for line in lines if line["method"] == GLOBAL and line["epsilon"] != "inf" and line["worst"]]
    if not private:
        return f"{name}: too few users to compare groups."
    line = max(private, key=lambda one: one["epsilon"])
    worst, best = line["groups"][line["worst"]], max(line["groups"].values(), key=lambda one: one["mean"])
    value = next(value for value, one in line["groups"].items() if one is best)
    return (
        f"By {name}, {line['worst']} is served worst by the released model of epsilon {line['epsilon']:g}: Recall@20 "
        f"{_figure(worst)}, where {value} has {_figure(best)}."
    )


def _fusion_table(records: list[Mapping[str, Any]]) -> Table:
    """What silos took for each budget, and NDCG@20 of requests without it and with it."""
    rows = []
    for epsilon in dict.fromkeys(one["epsilon"] for one in records):
        mine = [one for one in records if one["epsilon"] == epsilon]
        taken = Counter(name for one in mine for name in one["weights"])
        validation, test = (
            [sum(one[part]["n"] * one[part][name] for one in mine) / max(sum(one[part]["n"] for one in mine), 1)
             for name in names]
            for part, names in (("validation", ("without", "gain")), ("test", ("without", "with")))
        )  # fmt: skip
        rows.append(
            [
                f"{epsilon:g}",
                ", ".join(f"{name} by {count} of {len(mine)}" for name, count in taken.items()) or "none",
                f"{validation[0]:.4f}",
                f"{validation[1]:+.4f}",
                f"{min(one['validation']['gain'] for one in mine):+.4f}",
                f"{test[0]:.4f}",
                f"{test[1] - test[0]:+.4f}",
            ]
        )
    return Table(
        caption="NDCG@20 of requests without attributes and contexts, and what they add",
        header=["epsilon", "taken", "validation", "gain", "least gain of a silo", "test", "gain on test"],
        rows=rows,
        numeric=frozenset({0, 2, 3, 4, 5, 6}),
    )


def _new_items_table(record: Mapping[str, Any]) -> Table:
    def figure(value: Mapping[str, Any]) -> str:
        return f"{value['mean']:.4f}" + ("" if value["std"] is None else f" ± {value['std']:.4f}")

    return Table(
        caption=f"New items: {record['new_items']['n_new']:,} items that training did not see, ranked among "
        "themselves; mean and standard deviation over seeds",
        header=("method", "epsilon", "NDCG@20", "Recall@20"),
        rows=[
            [
                line["method"],
                "-" if line["method"] != MAPPED else str(line["epsilon"]),
                figure(line["ndcg@20"]),
                figure(line["recall@20"]),
            ]
            for line in record["new_items"]["lines"]
        ],
        numeric=frozenset({1, 2, 3}),
        keys=_KEYS,
    )
