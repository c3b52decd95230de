"""The page of a federation's life: what its trainings cost each silo and reached, what changed between, what is next.

Everything is read from the operator's folder: certificates, settings and totals of the trainings that are complete.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.certificates.certificate import Certificate, epsilon_that_counts
from recsys_fed.certificates.run import read_certificates
from recsys_fed.config import FederationConfig, parse
from recsys_fed.deployment.federation import CATALOGUE, FederationFolder, agreed_keys
from recsys_fed.deployment.roster import admitted_silos
from recsys_fed.deployment.scheduling import read_calendar
from recsys_fed.deployment.training import RUN_CONFIG, earlier_runs, trainings_of
from recsys_fed.errors import DataNotFoundError
from recsys_fed.federation.forecast import ERROR, expected_share
from recsys_fed.federation.planning import PublicCatalogue, planned_events, planned_schedule
from recsys_fed.federation.run_files import CERTIFICATES, EMBEDDINGS, FEDERATION
from recsys_fed.ledger.budget import would_spend
from recsys_fed.models.items import load_item_embeddings
from recsys_fed.privacy.accounting import kinds_of
from recsys_fed.privacy.events import PrivacyEvent
from recsys_fed.privacy.guarantee import Guarantee
from recsys_fed.report._page import Chart, Section, Series, Table, line_chart, number
from recsys_fed.settings_file import flatten, read_tables

# Trainings that are looked ahead where no schedule says how many are left.
_AHEAD = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class _Training:
    """One that is complete; `certificates` are those that hold, by silo, `problems` are the others."""

    name: str
    config: FederationConfig
    totals: Mapping[str, Any]
    n_items: int
    catalogue_hash: str
    certificates: Mapping[str, Certificate]
    problems: Sequence[str]


def life_sections(path: Path) -> list[Section]:
    """The sections of the page.

    Raises:
        DataNotFoundError: no training is complete yet.
    """
    folder = FederationFolder(path)
    found = [_read(one) for one in trainings_of(folder) if (one / EMBEDDINGS).is_file()]
    if not found:
        raise DataNotFoundError(f"There is no complete training in {folder.trainings} yet.")
    return [_trainings(found), _spent(found), *_quality(found), _changes(folder, found), _ahead(folder, found)]


def _read(training: Path) -> _Training:
    model = load_item_embeddings(training / EMBEDDINGS)
    try:
        certificates, problems = read_certificates(training / CERTIFICATES)
    except DataNotFoundError as error:
        certificates, problems = {}, [str(error)]
    return _Training(
        name=training.name,
        config=parse(FederationConfig, flatten(read_tables(training / RUN_CONFIG, what="a training"))),
        totals=json.loads((training / FEDERATION).read_text(encoding="utf-8")),
        n_items=model.n_items,
        catalogue_hash=model.catalogue_hash,
        certificates={one.terms.silo: one for one in certificates.values()},
        problems=problems,
    )


def _trainings(found: Sequence[_Training]) -> Section:
    table = Table(
        caption="Trainings that are complete",
        header=["training", "builds on", "silos", "items", "rounds", "epsilon asked for"],
        rows=[
            [
                one.name,
                str(one.config.earlier_trainings),
                str(len(one.certificates)),
                f"{one.n_items:,}",
                str(one.totals["rounds"]),
                number(one.config.epsilon),
            ]
            for one in found
        ],
        numeric=frozenset(range(1, 6)),
    )
    problems = [f"{one.name}: {problem}" for one in found for problem in one.problems]
    return Section(anchor="trainings", title="Trainings", paragraphs=problems, tables=[table])


def _spent(found: Sequence[_Training]) -> Section:
    """Of each silo what it says in its certificates: the training's epsilon, and that of everything until then."""
    silos = sorted({silo for one in found for silo in one.certificates})
    table = Table(
        caption="Epsilon of each training, and of everything until then, by silo",
        header=["training", *silos],
        rows=[[one.name, *(_cell(one.certificates.get(silo)) for silo in silos)] for one in found],
        numeric=frozenset(range(1, len(silos) + 1)),
    )
    limits = {silo: one.terms.guarantee.epsilon for later in found for silo, one in later.certificates.items()}
    series = []
    for silo in silos:
        points = [
            (float(number_), epsilon_that_counts(one.certificates[silo].epsilon_in_all))
            for number_, one in enumerate(found, start=1)
            if silo in one.certificates
        ]
        series.append(Series(name=silo, x=[x for x, _ in points], y=[y for _, y in points]))
    chart = line_chart(
        "Epsilon spent in all", "; ".join(f"{one.name}: {one.y[-1]:.3f}" for one in series), series,
        x_label="training", y_label="epsilon", figures=table,
    )  # fmt: skip
    said = ", ".join(f"{silo} {number(limit)}" for silo, limit in sorted(limits.items()))
    paragraphs = [f"Limits of the silos' ledgers: {said}."] if said else []
    return Section(
        anchor="spent", title="What it cost", paragraphs=paragraphs, charts=[chart] if series else [], tables=[table]
    )


def _cell(certificate: Certificate | None) -> str:
    if certificate is None:
        return "-"
    of_run, in_all = (
        epsilon_that_counts(figures) for figures in (certificate.epsilon_of_run, certificate.epsilon_in_all)
    )
    return f"{of_run:.3f} / {in_all:.3f}"


def _quality(found: Sequence[_Training]) -> list[Section]:
    """What silos measured, as noisy means; nothing where no training asked for it."""
    names = sorted({name for one in found for name in one.totals.get("private_metrics", {})})
    if not names:
        return []
    table = Table(
        caption="What silos measured on held-out interactions, as noisy means",
        header=["training", *names],
        rows=[[one.name, *(_measured(one, name) for name in names)] for one in found],
        numeric=frozenset(range(1, len(names) + 1)),
    )
    charts: list[Chart] = []
    for name in names:
        points = [
            (float(number_), float(one.totals["private_metrics"][name]["value"]))
            for number_, one in enumerate(found, start=1)
            if name in one.totals.get("private_metrics", {})
        ]
        series = Series(name=name, x=[x for x, _ in points], y=[y for _, y in points])
        said = ", ".join(f"{y:.3f}" for y in series.y)
        charts.append(line_chart(name, said, [series], x_label="training", y_label="metric", figures=table))
    return [Section(anchor="quality", title="Quality by training", charts=charts, tables=[table])]


def _measured(training: _Training, name: str) -> str:
    one = training.totals.get("private_metrics", {}).get(name)
    return "-" if one is None else f"{one['value']:.4f} (noise +- {one['noise']:.4f})"


def _changes(folder: FederationFolder, found: Sequence[_Training]) -> Section:
    """Silos, keys, catalogue and terms: what differs from the training before, and now from the last one."""
    rows = [
        [after.name, change] for before, after in pairwise(found)
        for change in (*_roster_changes(_keys(before), _keys(after)), *_other_changes(before, after))
    ]  # fmt: skip
    last, terms = found[-1], folder.settings().training
    items = Catalogue.load(folder.public / CATALOGUE)
    now = replace(last, config=terms, n_items=items.n_items, catalogue_hash=items.content_hash)
    roster = {known.name: known.ledger_key for known in admitted_silos(folder)}
    rows += [["since then", one] for one in (*_roster_changes(_keys(last), roster), *_other_changes(last, now))]
    table = Table(caption="Changes from one training to the next", header=["until", "what"], rows=rows)
    return Section(
        anchor="changes",
        title="Silos, catalogue and terms",
        paragraphs=[] if rows else ["Nothing has changed since the first training."],
        tables=[table] if rows else [],
    )


def _keys(training: _Training) -> dict[str, str]:
    return {silo: one.terms.public_key for silo, one in training.certificates.items()}


def _roster_changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    lines = [f"{silo} takes part" for silo in sorted(after.keys() - before.keys())]
    lines += [f"{silo} takes no part" for silo in sorted(before.keys() - after.keys())]
    both = sorted(before.keys() & after.keys())
    return [*lines, *(f"{silo} has a new ledger key" for silo in both if before[silo] != after[silo])]


def _other_changes(before: _Training, after: _Training) -> list[str]:
    lines = []
    if before.catalogue_hash != after.catalogue_hash:
        lines.append(f"the catalogue has {after.n_items:,} items in place of {before.n_items:,}")
    then, now = agreed_keys(before.config), agreed_keys(after.config)
    names = sorted((then.keys() | now.keys()) - {"epsilon"})
    changed = [name for name in names if then.get(name) != now.get(name)]
    return [*lines, *(f"{name} is {now.get(name)} in place of {then.get(name)}" for name in changed)]


def _ahead(folder: FederationFolder, found: Sequence[_Training]) -> Section:
    """What the next trainings would cost the silo that has spent most, and what they can be expected to reach."""
    calendar, terms = read_calendar(folder), folder.settings().training
    builds_on = calendar.builds_on if calendar is not None else found[-1].config.earlier_trainings > 0
    left = max(calendar.trainings - len(calendar.done), 0) if calendar is not None else _AHEAD
    epsilon = (calendar.epsilon if calendar is not None else 0.0) or found[-1].config.epsilon
    earlier = len(earlier_runs(folder, say=lambda _: None)) if builds_on else 0
    items = Catalogue.load(folder.public / CATALOGUE)
    catalogue = PublicCatalogue(n_items=items.n_items, items=items)
    events, guarantee, silo = _dearest(found)
    rows: list[list[str]] = []
    for number_ in range(left):
        config = replace(terms, epsilon=epsilon, earlier_trainings=earlier + number_ if builds_on else 0)
        schedule = planned_schedule(config, catalogue)
        events = [*events, *planned_events(schedule)]
        spent = would_spend((), kinds_of(events), guarantee)
        fits = "yes" if spent <= guarantee.epsilon else "no"
        share = f"{expected_share(schedule.facts).share:.3f}"
        rows.append([str(number_ + 1), str(config.earlier_trainings), number(epsilon), number(spent), fits, share])
    table = Table(
        caption=f"The next trainings, for {silo}, which has spent most",
        header=["next", "builds on", "epsilon of it", "in all", "within its limit", "expected share"],
        rows=rows,
        numeric=frozenset({0, 1, 2, 3, 5}),
    )
    said = (
        "Epsilon in all composes the events that its certificates name with those that are planned. The expected "
        f"share is of the quality without noise, by a fitted law that was off by up to {ERROR:g} where it was tried."
    )
    ended = "The schedule has come to its end."
    return Section(anchor="ahead", title="What is next", paragraphs=[said if rows else ended], tables=[table])


def _dearest(found: Sequence[_Training]) -> tuple[list[PrivacyEvent], Guarantee, str]:
    """All events that certificates name of the silo that says it has spent most, its promise, and its name."""
    newest = {silo: one for training in found for silo, one in training.certificates.items()}
    if not newest:
        raise DataNotFoundError("There is no certificate that holds of any training. Ask the silos' operators.")
    silo = max(newest, key=lambda name: epsilon_that_counts(newest[name].epsilon_in_all))
    certificates = [one.certificates[silo] for one in found if silo in one.certificates]
    events: list[PrivacyEvent] = [release.event for one in certificates for release in one.releases]
    return events, newest[silo].terms.guarantee, silo
