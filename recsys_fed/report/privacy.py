"""Ledgers, their budgets and certified runs, as people see them in a terminal and on a page."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from recsys_fed.certificates.certificate import epsilon_that_counts
from recsys_fed.certificates.run import VerifiedRun
from recsys_fed.certificates.terms import epsilon_to_record
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.records import log_record
from recsys_fed.ledger.verification import JSON_LINES, verification_record
from recsys_fed.privacy.accounting import epsilon_of_history
from recsys_fed.privacy.events import ReleaseEvent
from recsys_fed.privacy.guarantee import Guarantee
from recsys_fed.report._page import Section, Series, Table, Verdict, finite, line_chart, number
from recsys_fed.report.console import new_console, new_table, print_sections, print_table

SIMULATED = "simulated: its noise follows from a seed, so it protects nobody"
ONLY_THE_SUM = "each silo added a share of the noise: this holds only against those who see no more than the sum"
MASKED = (
    "secure aggregation: the server saw sums of at least {threshold} silos. This holds against the server together "
    "with up to {colluding} silos; what a silo sent by itself is hidden by masks, not by its noise"
)
_ACCOUNTANTS = ("pld", "prv", "rdp")


def print_created(record: Mapping[str, Any]) -> None:
    """A new ledger, and the key that others should know."""
    console = new_console()
    _say(console, f"created {record['ledger']}")
    _say(console, f"public key: {record['terms']['public_key']}")
    _say(console, record["guarantee"])


def print_status(record: Mapping[str, Any]) -> None:
    """Terms, budget and the last runs."""
    console = new_console()
    terms = record["terms"]
    console.print(record["ledger"], style="bold", markup=False, highlight=False)
    _say(
        console,
        f"silo {terms['silo']}, key {terms['public_key'][:16]}..., {terms['declared_users']:,} declared users",
    )
    if terms["simulated"]:
        console.print(f"[bold red]{SIMULATED}[/]")
    last = record["last_entry"]
    _say(
        console,
        f"{record['entries']:,} entries, {record['releases']:,} of them releases; the last one is {last['kind']} "
        f"{last['number']} of {last['time']}",
    )
    table = new_table("delta", "epsilon spent", "limit", "left", *(name.upper() for name in _ACCOUNTANTS))
    for spent in record["spending"]:
        figures = (spent["epsilon"], spent["epsilon_limit"], spent["epsilon_left"])
        by_accountant = (spent[f"epsilon_{name}"] for name in _ACCOUNTANTS)
        table.add_row(f"{spent['delta']:g}", *map(_number, figures), *map(_number, by_accountant))
    print_table(console, table)
    if record["runs"]:
        runs = new_table("run", "releases", "epsilon of the run alone")
        for run in record["runs"]:
            runs.add_row(Text(run["run"]), f"{run['releases']:,}", _number(run["epsilon"]))
        print_table(console, runs)
    _say(console, f"{record['over_silos']}.")
    _say(console, record["guarantee"])
    console.print("[yellow]nothing was verified here: recsys-fed privacy verify[/]")


def print_entries(records: Sequence[Mapping[str, Any]]) -> None:
    """Entries as a table."""
    with_epsilon = any("epsilon_until_then" in record for record in records)
    until = ["epsilon until then"] if with_epsilon else []
    table = new_table("number", "time (UTC)", "run", "round", "what", "noise multiplier", *until, right=until)
    for record in records:
        if record["kind"] == "release":
            cells = [record["run"], str(record["round"]), record["released"], _noise(record)]
        else:
            said = record["reason"] if "reason" in record else f"terms of {record['silo']}"
            if record["kind"] == "key":
                what = f"new key {record['public_key'][:16]}..."
            else:
                what = f"epsilon limit {_number(record['epsilon_limit'])}"
            cells = ["", "", f"{what}: {said}", ""]
        if with_epsilon:
            cells.append(_number(record["epsilon_until_then"]))
        table.add_row(str(record["number"]), record["time"][:19].replace("T", " "), *map(Text, cells))
    print_table(new_console(), table)


def print_audit(record: Mapping[str, Any]) -> None:
    """What was checked of a ledger, or the first thing that does not hold."""
    print_sections([_ledger_section(record)])


def _ledger_section(record: Mapping[str, Any]) -> Section:
    if not record["holds"]:
        bad = Verdict(text=f"It does not hold: {record['problem']}", mood="bad")
        return Section(anchor="ledger", title="The ledger", verdicts=[bad])
    terms, spent, head = record["terms"], record["spending"], record["head"]
    limit = f"The silo {terms['silo']} lets every user's epsilon grow to {terms['epsilon_limit']} at most."
    verdicts = [
        Verdict(text=record.get("guarantee", "") or limit),
        Verdict(text="It holds: spelling, chain, signatures, times, stored copies and limits agree.", mood="good"),
    ]
    if terms["simulated"]:
        verdicts.append(Verdict(text=SIMULATED, mood="bad"))
    certificates = [f"Certificate {name} agrees." for name in record["certificates_checked"]] or [
        "Without certificates nobody can tell whether later entries were cut off: --certificates."
    ]
    named = ", ".join(f"{name.upper()} {_number(spent[f'epsilon_{name}'])}" for name in _ACCOUNTANTS)
    return Section(
        anchor="ledger",
        title="The ledger",
        verdicts=verdicts,
        paragraphs=[
            f"{record['entries']:,} entries, {record['releases']:,} of them releases, from {record['first']} to "
            f"{record['last']}; the last one is {head['number']}, {head['hash']}.",
            f"Epsilon {_number(spent['epsilon'])} of {_number(spent['epsilon_limit'])} is spent at delta "
            f"{spent['delta']:g}, recomputed from the events ({named}).",
            *certificates,
        ],
        tables=[
            Table(
                caption="Terms of the silo",
                header=["term", "value"],
                rows=[[name.replace("_", " "), str(value)] for name, value in terms.items()],
            )
        ],
    )


def run_record(run: VerifiedRun) -> dict[str, Any]:
    """A checked run as JSON values."""
    silos = [
        {
            "silo": name,
            "public_key": certificate.terms.public_key,
            "releases": len(certificate.releases),
            "epsilon_of_run": epsilon_to_record(epsilon_that_counts(certificate.epsilon_of_run)),
            "epsilon_in_all": epsilon_to_record(epsilon_that_counts(certificate.epsilon_in_all)),
            "epsilon_limit": epsilon_to_record(certificate.terms.guarantee.epsilon),
        }
        for name, certificate in sorted(run.certificates.items(), key=lambda pair: (len(pair[0]), pair[0]))
    ]
    return {
        "holds": run.holds,
        "problems": list(run.problems),
        "epsilon_of_run": epsilon_to_record(run.epsilon_of_run),
        "epsilon_in_all": epsilon_to_record(run.epsilon_in_all),
        "delta": run.terms.delta if run.terms else None,
        "max_silos_per_user": run.terms.max_silos_per_user if run.terms else None,
        "guarantee_of_run": run.sentence_of_run(),
        "guarantee_in_all": run.sentence_in_all(),
        "simulated": run.simulated,
        "only_the_sum": run.only_the_sum,
        "masked": None if run.masked is None else dict(zip(("threshold", "colluding"), run.masked, strict=True)),
        "silos": silos,
    }


def print_run(record: Mapping[str, Any]) -> None:
    """A table of silos, everything that does not hold, and the federation's guarantee."""
    print_sections([certificates_section(record)])


def certificates_section(record: Mapping[str, Any]) -> Section:
    """What a run's certificates, verified now from its files, say and what follows from them."""
    k = record["max_silos_per_user"]
    rule = "the worst silo counts" if k == 1 else f"the {k} most expensive silos count together"
    verdicts, follows = [], []
    if record["holds"]:
        text = "It holds: signatures, events, epsilon and model of all certificates agree."
        verdicts.append(Verdict(text=text, mood="good"))
        follows = [
            f"This run ({rule}): {record['guarantee_of_run']}",
            f"All that the silos ever released, as they state it: {record['guarantee_in_all']}",
            *([MASKED.format(**record["masked"])] if record["masked"] else []),
        ]
        verdicts += [Verdict(text=ONLY_THE_SUM, mood="bad")] if record["only_the_sum"] else []
        verdicts += [Verdict(text=SIMULATED, mood="bad")] if record["simulated"] else []
    else:
        text = f"It does not hold; no guarantee follows from these certificates. Faults: {len(record['problems'])}."
        verdicts.append(Verdict(text=text, mood="bad"))
    figures = ("epsilon_of_run", "epsilon_in_all", "epsilon_limit")
    by_silo = Table(
        caption="Silos of this run",
        header=["silo", "key", "releases", "epsilon of this run", "in all", "limit"],
        rows=[
            [one["silo"], one["public_key"][:16], str(one["releases"]), *(_number(one[name]) for name in figures)]
            for one in record["silos"]
        ],
        numeric=frozenset({2, 3, 4, 5}),
    )
    return Section(
        anchor="certificates",
        title="Certificates",
        verdicts=verdicts,
        paragraphs=[*record["problems"], *follows],
        tables=[by_silo],
    )


def _noise(record: Mapping[str, Any]) -> str:
    steps = "" if record["steps"] == 1 else f" x {record['steps']}"
    sampled = "" if record["sampling_probability"] == 1 else f", q {record['sampling_probability']:g}"
    return f"{record['noise_multiplier']:.4f}{steps}{sampled}"


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4f}"


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False)


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
    alike = _group_alike(spent)
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


def _group_alike(spent: Sequence[Spent]) -> list[tuple[str, Spent]]:
    """Silos with the same line, as one; longest groups last so that exceptions are seen first."""
    groups: defaultdict[tuple[object, ...], list[Spent]] = defaultdict(list)
    for one in spent:
        groups[(one.first, one.limit, tuple(round(epsilon, 4) for epsilon in one.epsilon))].append(one)
    ordered = sorted(groups.values(), key=len)
    return [(_name_of_group([one.silo for one in group]), group[0]) for group in ordered]


def _name_of_group(silos: Sequence[str]) -> str:
    return silos[0] if len(silos) == 1 else f"{silos[0]} and {len(silos) - 1} alike"


def ledger_sections(address: str) -> Iterator[Section]:
    """All sections of a ledger or of its export; it is verified as the page is made."""
    record = verification_record(address)
    yield _ledger_section(record)
    if record["holds"] and not address.endswith(JSON_LINES):
        yield budget_section([spent_by_ledger(address)])
