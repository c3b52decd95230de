"""The section on budgets: what each silo has spent over time, from ledgers or from a run's events."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.records import log_record
from recsys_fed.privacy.accounting import epsilon_of_history
from recsys_fed.privacy.events import ReleaseEvent
from recsys_fed.privacy.guarantee import Guarantee
from recsys_fed.report.html.charts import Series, line_chart
from recsys_fed.report.html.figures import finite, number
from recsys_fed.report.html.page import Section, Table

# The last entries of a ledger that are drawn.
_NEWEST = 60
_LINES = 4


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a silo had spent after each of its releases; `first` is the number of the first one here, from 1."""

    silo: str
    delta: float
    limit: float | None
    first: int
    releases: tuple[str, ...]
    times: tuple[str, ...]
    epsilon: tuple[float, ...]


def spent_by_ledger(address: str) -> Spent:
    """From the last entries of a ledger."""
    ledger = Ledger.open(address)
    entries = [entry for entry in log_record(ledger, last=_NEWEST, epsilon=True) if entry["kind"] == "release"]
    promise = ledger.spending().guarantee
    found = [(entry, finite(entry["epsilon_until_then"])) for entry in entries]
    kept = [(entry, epsilon) for entry, epsilon in found if epsilon is not None]
    return Spent(
        silo=ledger.terms().silo,
        delta=promise.delta,
        limit=finite(promise.epsilon),
        first=ledger.releases() - len(entries) + 1,
        releases=tuple(entry["released"] for entry, _ in kept),
        times=tuple(entry["time"][:19].replace("T", " ") for entry, _ in kept),
        epsilon=tuple(epsilon for _, epsilon in kept),
    )


def spent_by_events(path: Path, guarantee: Guarantee) -> list[Spent]:
    """From the events of one run, where there are no ledgers: what the run alone has spent."""
    by_silo: defaultdict[str, list[ReleaseEvent]] = defaultdict(list)
    for line in path.read_text().splitlines():
        record = json.loads(line)
        silo = record.pop("silo")
        record.pop("payload")
        by_silo[silo].append(ReleaseEvent.from_dict(record))
    return [
        Spent(
            silo=silo,
            delta=guarantee.delta,
            limit=finite(guarantee.epsilon),
            first=1,
            releases=tuple(event.released for event in events),
            times=("",) * len(events),
            epsilon=tuple(
                epsilon_of_history(guarantee.over_silos_kinds(events[: count + 1]), delta=guarantee.delta)
                for count in range(len(events))
            ),
        )
        for silo, events in by_silo.items()
    ]


def budget_section(spent: Sequence[Spent]) -> Section:
    """Lines of the silos (those that are alike as one) and a table of the releases."""
    alike = _alike(spent)
    figures = Table(
        caption="Epsilon spent after each release",
        header=["silo", "release", "time (UTC)", "what was released", "epsilon spent", "limit"],
        rows=[
            [name, str(one.first + place), time or "-", released, number(epsilon), number(one.limit)]
            for name, one in alike
            for place, (time, released, epsilon) in enumerate(
                zip(one.times, one.releases, one.epsilon, strict=True)
            )
        ],
        numeric=frozenset({1, 4, 5}),
    )  # fmt: skip
    drawn = [
        Series(
            name=name,
            x=[float(one.first + place) for place in range(len(one.epsilon))],
            y=one.epsilon,
        )
        for name, one in alike[:_LINES]
    ]
    limits = {one.limit for one in spent}
    limit = limits.pop() if len(limits) == 1 else None
    last = "; ".join(
        f"{name}: {number(one.epsilon[-1])} of {number(one.limit)}" for name, one in alike if one.epsilon
    )
    title = "Budget by silo"
    chart = line_chart(
        title,
        f"Epsilon spent after each release. {last}.",
        drawn,
        x_label="release of the silo",
        y_label=f"epsilon at delta {spent[0].delta:g}",
        limit=limit,
        steps=True,
        figures=figures,
    )
    text = (
        f"Spent so far: {last or 'nothing'}. What is spent cannot be taken back; what is left is the silo's to give."
    )
    return Section(anchor="budget", title=title, paragraphs=[text], charts=[chart], folded=[figures])


def _alike(spent: Sequence[Spent]) -> list[tuple[str, Spent]]:
    """Silos with the same line, as one; longest groups last so that exceptions are seen first."""
    groups: defaultdict[tuple[object, ...], list[Spent]] = defaultdict(list)
    for one in spent:
        groups[(one.first, one.limit, tuple(round(epsilon, 4) for epsilon in one.epsilon))].append(one)
    ordered = sorted(groups.values(), key=len)
    return [(_name([one.silo for one in group]), group[0]) for group in ordered]


def _name(silos: Sequence[str]) -> str:
    return silos[0] if len(silos) == 1 else f"{silos[0]} and {len(silos) - 1} alike"
