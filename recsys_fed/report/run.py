"""Simulated runs and recommendations: a table in a terminal, the page of a run, and that of several runs."""

import json
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rich.text import Text

from recsys_fed.certificates.run import verify_run
from recsys_fed.config import current_noise
from recsys_fed.errors import DataFormatError, DataNotFoundError
from recsys_fed.evaluation.metrics import AUC, ERRORS, HEADLINE_NAMES, shown_names
from recsys_fed.federation.run_files import CERTIFICATES, EMBEDDINGS, EVENTS
from recsys_fed.privacy.guarantee import Guarantee
from recsys_fed.report._page import Chart, Section, Series, Table, Verdict, finite, interval_chart, line_chart, number
from recsys_fed.report.console import new_console, new_table, print_rows, print_table
from recsys_fed.report.privacy import (
    ONLY_THE_SUM,
    SIMULATED,
    Spent,
    budget_section,
    certificates_section,
    run_record,
    spent_by_events,
    spent_by_ledger,
)
from recsys_fed.report.years import trainings_section, trainings_table
from recsys_fed.simulation.record import CONFIG, METRICS

NO_PRIVACY = "epsilon is infinite: no noise is added and nothing is private"


def print_simulation(record: Mapping[str, Any], *, output: Path | None) -> None:
    """The final table of a run."""
    console = new_console()
    console.print(_title(record), style="bold", markup=False)
    for table in _quality_tables(record):
        print_rows(console, table)
    if "trainings" in record:
        print_rows(console, trainings_table(record))
    if record["protocol"]["name"]:
        console.print(_protocol(record["protocol"]))
    if record["private_metrics"]:
        console.print(f"as the silos report it, a noisy sum: {_private_metrics(record)}")
    console.print(f"[yellow]{record['note']}[/]; {record['noise_note']}")
    if "user_weights" in record:
        console.print(f"what users count in training: {record['user_weights']}", markup=False)
    if record["epsilon"] == "inf":
        console.print(f"[bold red]{NO_PRIVACY}[/]")
    else:
        spent = max(record["epsilon_spent"].values())
        console.print(
            f"epsilon spent by each silo: {spent:.3f} of {record['epsilon']} at delta {record['delta']}",
        )
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in record["seconds"].items())
    console.print(
        f"{seconds}; peak memory {record['peak_rss_mb']:.0f} MB; "
        f"up {record['bytes_up'] / 1e6:.1f} MB, down {record['bytes_down'] / 1e6:.1f} MB",
    )
    if record["refused"]:
        console.print(f"[red]left out: {len(record['refused'])} answers, first: {record['refused'][0]}[/]")
    if output is not None:
        console.print(f"written to {output}", markup=False)


def print_sweep(record: Mapping[str, Any]) -> None:
    """Trials with what they cost, the winner, and the promise of all of them."""
    console, spent = new_console(), record["spending"]
    names = sorted({key for one in record["trials"] for key in one["settings"]})
    header = ["trial", *names, f"{record['metric']}, noisy", "noise", "epsilon", "in all"]
    rows = [
        [
            str(one["trial"]),
            *(str(one["settings"][key]) for key in names),
            *(number(one[name], 4) for name in ("value", "noise", "epsilon", "epsilon_in_all")),
        ]
        for one in record["trials"]
    ]
    numeric = frozenset(range(len(names) + 1, len(header)))
    print_rows(console, Table(caption="Trials", header=header, rows=rows, numeric=numeric))
    if record["refused"]:
        refused = record["refused"]
        console.print(
            f"[yellow]trial {refused['trial']} was refused: epsilon would have been {number(refused['would_spend'])} "
            f"of {number(refused['limit'])}; nothing was released for it[/]"
        )
    if record["best"]:
        console.print(f"best: trial {record['best']['trial']}, {record['note']}", markup=False, highlight=False)
    console.print(
        f"epsilon spent by all trials together: {number(spent['epsilon'])} of {number(spent['epsilon_limit'])} at "
        f"delta {spent['delta']:g} (PLD {number(spent['epsilon_pld'])}, PRV {number(spent['epsilon_prv'])})",
        highlight=False,
    )
    console.print(record["guarantee"], markup=False, highlight=False)


def print_recommendations(result: Mapping[str, Any]) -> None:
    """History and recommendations as tables."""
    console = new_console()
    for item in result["history"]:
        console.print(f"history: {item['item']} {item['title']}", markup=False, highlight=False)
    table = new_table("rank", "item", "title", "score")
    for row in result["recommendations"]:
        score = f"{row['score']:.4f}" + " new" * row["new"]
        table.add_row(str(row["rank"]), Text(row["item"]), Text(row["title"]), score)
    print_table(console, table)


def print_predictions(result: Mapping[str, Any]) -> None:
    """Predicted ratings as a table."""
    table = new_table("item", "title", "rating", right=("rating",))
    for row in result["predictions"]:
        table.add_row(Text(row["item"]), Text(row["title"]), f"{row['rating']:.2f}")
    print_table(new_console(), table)


def _private_metrics(record: Mapping[str, Any]) -> str:
    found = record["private_metrics"].items()
    return ", ".join(f"{name} {m['value']:.4f} (noise +- {m['noise']:.4f})" for name, m in sorted(found))


def _protocol(protocol: Mapping[str, Any]) -> str:
    part = "" if protocol["held_out"] == "test" else f", measured on its {protocol['held_out']} part"
    return f"protocol {protocol['name']} ({', '.join(protocol['metrics'])}){part}: {protocol['note']}"


def _title(record: Mapping[str, Any]) -> str:
    return (
        f"{record['data']}: {record['n_users']:,} users, {record['n_items']:,} items, {record['n_silos']} silos, "
        f"epsilon {record['epsilon']}, {record['rounds']} rounds"
    )


def metrics_of(folder: Path) -> dict[str, Any]:
    """The metrics record of a run.

    Raises:
        DataFormatError: the file is no such record.
    """
    try:
        record = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        if not {"guarantee", "metrics", "epsilon", "trainer"} <= record.keys():
            raise ValueError("keys are missing")
    except (ValueError, AttributeError, UnicodeDecodeError) as error:
        raise DataFormatError(f"Expected {METRICS} of a run in {folder}: {error}.") from error
    found: dict[str, Any] = record
    return found


def run_sections(folder: Path) -> Iterator[Section]:
    """All sections of a finished run."""
    record = metrics_of(folder)
    checked = _verify_certificates(folder)
    yield _guarantee(record, checked)
    if "trainings" in record:
        yield trainings_section(record)
        yield budget_section(_spent(folder / f"training-{len(record['trainings'])}", record))
    else:
        yield budget_section(_spent(folder, record))
    yield _quality(record)
    if checked is not None:
        yield certificates_section(checked)
    yield _configuration_section(folder, record)


def _guarantee(record: Mapping[str, Any], checked: Mapping[str, Any] | None) -> Section:
    sentence = checked["guarantee_of_run"] if checked is not None and checked["holds"] else record["guarantee"]
    verdicts = [Verdict(text=sentence, mood="plain" if record["epsilon"] != "inf" else "bad")]
    if checked is not None and checked["simulated"]:
        verdicts.append(Verdict(text=f"This run was {SIMULATED}.", mood="bad"))
    if checked is not None and checked["only_the_sum"]:
        verdicts.append(Verdict(text=f"In this run {ONLY_THE_SUM}."))
    return Section(
        anchor="guarantee",
        title="What is promised to every user",
        verdicts=verdicts,
        paragraphs=[
            f"{record['data']}: {record['n_users']:,} users and {record['n_items']:,} items in {record['n_silos']} "
            f"silos; {record['trainer']}, {record['rounds']} rounds. Noise: {record['noise_note']}.",
            *([f"What users count in training: {record['user_weights']}."] if "user_weights" in record else []),
        ],
    )


def _spent(folder: Path, record: Mapping[str, Any]) -> list[Spent]:
    ledgers = sorted((folder / "ledgers").glob("*/ledger.sqlite"), key=lambda path: (len(path.parent.name), path))
    if ledgers:
        return [spent_by_ledger(str(path)) for path in ledgers]
    epsilon = float(record["epsilon"])
    return spent_by_events(folder / EVENTS, Guarantee(epsilon=epsilon, delta=record["delta"]))


def _quality_table(record: Mapping[str, Any]) -> Table:
    found = record["metrics"]
    shown = [
        *shown_names(found),
        "mrr",
        AUC,
        "coverage@20",
        *sorted(name for name in found if name.startswith("sampled")),
    ]
    return Table(
        caption="Quality of the model beside popularity",
        header=["metric", record["trainer"], "exact popularity"],
        rows=[[x, number(found[x], 4), number(record["popularity"][x], 4)] for x in shown if x in found],
        numeric=frozenset({1, 2}),
    )


def _quality_tables(record: Mapping[str, Any]) -> list[Table]:
    ranked = [_quality_table(record)] if record["popularity"] else []
    groups = [_attribute_table(name, of) for name, of in record.get("by_attribute", {}).items()]
    return [*ranked, *groups, *([_ratings_table(record)] if "ratings" in record else [])]


def _attribute_table(name: str, of: Mapping[str, Any]) -> Table:
    return Table(
        caption=f"Users by {name}: {of['worst']} is served worst" if of["worst"] else f"Users by {name}",
        header=[name, "users", *HEADLINE_NAMES],
        rows=[
            [value, f"{one['n_users']:,}", *(number(one[metric], 4) for metric in HEADLINE_NAMES)]
            for value, one in of["groups"].items()
        ],
        numeric=frozenset(range(1, 2 + len(HEADLINE_NAMES))),
    )


def _ratings_table(record: Mapping[str, Any]) -> Table:
    model, own = record["ratings"]["model"], record["ratings"]["user_mean"]
    which = "held-out ratings of" if record["n_held_out"] else "ratings of train, of"
    return Table(
        caption="Errors of predicted ratings, and of every user's own mean in their place",
        header=[which, *(f"{x.upper()}{who}" for x in ERRORS for who in ("", ", own mean"))],
        rows=[[name, *(number(of[name][x], 4) for x in ERRORS for of in (model, own))] for name in model],
        numeric=frozenset({1, 2, 3, 4}),
    )


def _quality(record: Mapping[str, Any]) -> Section:
    tables = _quality_tables(record)
    private = record.get("private_metrics") or {}
    reported = "; ".join(
        f"{name} {value['value']:.4f} (noise of {value['noise']:.4f})" for name, value in private.items()
    )
    return Section(
        anchor="quality",
        title="Quality",
        paragraphs=[f"{record['note']}.", *([f"As the silos report it, privately: {reported}."] if reported else [])],
        charts=[_quality_chart(record, figures=tables[0])] if record["popularity"] else [],
        tables=tables,
    )


def _quality_chart(record: Mapping[str, Any], *, figures: Table) -> Chart:
    shown = shown_names(record["metrics"])
    ranked = [(name, record["metrics"][name], record["popularity"][name]) for name in shown]
    return interval_chart(
        "Quality beside popularity",
        "; ".join(f"{name}: {model:.3f}, popularity {popular:.3f}" for name, model, popular in ranked),
        [(name, model, min(model, popular), max(model, popular)) for name, model, popular in ranked],
        x_label="metric; the line reaches from popularity to the model (dot)",
        figures=figures,
    )


def _verify_certificates(folder: Path) -> dict[str, Any] | None:
    """The run's certificates, verified now; None where there are none."""
    try:
        return run_record(verify_run(folder / CERTIFICATES, events=folder / EVENTS, model=folder / EMBEDDINGS))
    except DataNotFoundError:
        return None


def _configuration_section(folder: Path, record: Mapping[str, Any]) -> Section:
    """Settings and versions; paths of the machine are left out."""
    settings = tomllib.loads((folder / CONFIG).read_text(encoding="utf-8")) if (folder / CONFIG).is_file() else {}
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= {f"{key}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {key: value}
    shown = {key: _short(value) for key, value in sorted(flat.items())}
    return Section(
        anchor="configuration",
        title="Configuration and versions",
        folded=[
            Table(caption="Configuration", header=["key", "value"], rows=[[k, v] for k, v in shown.items()]),
            Table(
                caption="Versions",
                header=["package", "version"],
                rows=[[name, str(version)] for name, version in record.get("versions", {}).items()],
            ),
        ],
    )


def _short(value: Any) -> str:
    """A setting as text; of a path its last part, as pages are passed on."""
    text = str(value)
    return Path(text).name if "/" in text else text


_METRIC = "recall@20"
_MOST_LINES = 3

Runs = Sequence[tuple[str, Mapping[str, Any]]]


def comparison_sections(runs: Runs) -> Iterator[Section]:
    """All sections of a comparison of named runs' metrics records."""
    yield Section(
        anchor="comparison",
        title="Quality against epsilon",
        paragraphs=[
            "A smaller epsilon protects better. Figures are from simulations, whose metrics are not privatised."
        ],
        charts=[_runs_chart(runs)],
        tables=[_runs_table(runs)],
    )
    yield Section(
        anchor="silos",
        title="Epsilon by silo",
        paragraphs=["Recomputed from the events of each run. Of silos with disjoint users the worst one counts."],
        tables=[_epsilon_by_silo(runs)],
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


def _runs_chart(runs: Runs) -> Chart:
    lines: defaultdict[str, defaultdict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _, record in runs:
        epsilon = finite(record["epsilon"])
        if epsilon is not None:
            lines[f"{record['trainer']}, noise {current_noise(record['noise'])}"][epsilon].append(
                record["metrics"][_METRIC]
            )
    series = [
        Series(name=name, x=sorted(points), y=[mean(points[epsilon]) for epsilon in sorted(points)])
        for name, points in sorted(lines.items())[:_MOST_LINES]
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
        figures=_runs_table(runs),
    )


def _runs_table(runs: Runs) -> Table:
    return Table(
        caption="Runs",
        header=["run", "data", "trainer", "noise", "epsilon", "silos", _METRIC, "ndcg@20", "popularity"],
        rows=[
            [
                name,
                record["data"],
                record["trainer"],
                current_noise(record["noise"]),
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


def _epsilon_by_silo(runs: Runs) -> Table:
    silos = sorted(
        {silo for _, record in runs for silo in record["epsilon_spent"]}, key=lambda name: (len(name), name)
    )
    return Table(
        caption="Epsilon spent by each silo in each run",
        header=["silo", *(name for name, _ in runs)],
        rows=[[silo, *(number(record["epsilon_spent"].get(silo)) for _, record in runs)] for silo in silos],
        numeric=frozenset(range(1, len(runs) + 1)),
    )
