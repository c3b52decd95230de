"""An audit in a terminal, and its page: verdict, bounds beside the ledger's figure, conformance, power, attacks."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys_fed.report._page import Chart, Section, Table, Verdict, finite, interval, interval_chart, number
from recsys_fed.report.console import new_console, print_sections


def print_audit_of_run(record: Mapping[str, Any], *, output: Path) -> None:
    """The sections of an audit, and where it was written."""
    console = new_console()
    print_sections(audit_sections(record), console)
    console.print(f"written to {output}; as a page: recsys-fed report {output}", markup=False, highlight=False)


_CANNOT = (
    "A lower bound says that the mechanism leaks at least so much to this attack. It never says that it leaks no "
    "more: a small bound is what a weak attack gives too. One run cannot confirm a small epsilon; what speaks for a "
    "correct mechanism are the conformance tests and the proof."
)


def audit_sections(record: Mapping[str, Any]) -> Iterator[Section]:
    """All sections of an audit's record."""
    yield _summary(record)
    yield _bounds(record)
    yield _conformance(record)
    # Records of earlier versions have none.
    if record.get("boundary"):
        yield _boundary(record["boundary"])
    if record["power"]:
        yield _power(record)
    if record["attacks"]:
        yield _attacks(record["attacks"])


def _summary(record: Mapping[str, Any]) -> Section:
    canaries, flagged = record["canaries"], record["flagged"]
    strict = record["this_run"]["bounds"][0]
    spent = [value for value in map(finite, record["ledger_epsilon"].values()) if value is not None]
    lead = Verdict(
        text=f"Epsilon {record['claimed_epsilon']:g} is claimed; the ledger proves at most "
        f"{number(max(spent, default=None))}, and the attack shows at least "
        f"{number(max(strict['one_run'], strict['one_run_fdp']))} ({strict['confidence']:.0%})."
    )
    said = ", ".join(record["this_run"]["caught_by"])
    verdict = (
        Verdict(text=f"The audit contradicts the claim: {said}.", mood="bad")
        if flagged
        else Verdict(text="Nothing in this audit contradicts the claim.", mood="good")
    )
    able = Verdict(
        text=f"The same audit caught {record['caught']} of {record['broken']} deliberately broken copies.",
        mood="good" if record["caught"] == record["broken"] else "bad",
    )
    return Section(
        anchor="audit",
        title="Audit",
        verdicts=[lead, verdict, *([able] if record["broken"] else [])],
        paragraphs=[
            f"{canaries['crafted']:,} crafted users, of whom a coin let {canaries['included']:,} take part, were put "
            f"into the data of a real run of {record['data']} ({record['n_users']:,} users, {record['n_items']:,} "
            f"items, {record['n_silos']} silos, trainer {record['trainer']}). An attacker who knows everything but "
            "the coins guessed who took part, from everything that was released.",
            record["note"],
        ],
    )


def _bounds(record: Mapping[str, Any]) -> Section:
    rows, points = [], []
    for bounds in record["this_run"]["bounds"]:
        level, game = f"{bounds['confidence']:.0%}", bounds["guesses"]
        estimate = bounds["gaussian"]
        rows += [
            [f"one run, {level}", number(bounds["one_run"]), "lower bound, any mechanism"],
            [f"f-DP one run, {level}", number(bounds["one_run_fdp"]), "lower bound, Gaussian mechanisms"],
            [
                f"Gaussian fit, lower limit {level}",
                number(estimate["epsilon_low"]),
                f"an estimate, no bound; in the middle {number(estimate['epsilon'])}",
            ],
        ]
        points += [
            (f"one run, {level}", bounds["one_run"]),
            (f"f-DP one run, {level}", bounds["one_run_fdp"]),
            (f"Gaussian fit, {level}", estimate["epsilon_low"]),
        ]
    spent = [value for value in map(finite, record["ledger_epsilon"].values()) if value is not None]
    ledger = max(spent, default=record["claimed_epsilon"])
    rows.append(["upper bound by the ledger", number(ledger), "what the accountants prove"])
    figures = Table(
        caption="Epsilon, by method", header=["method", "epsilon", "what it is"], rows=rows, numeric=frozenset({1})
    )
    chart = interval_chart(
        "Epsilon from below and from above",
        f"Lower bounds between {min(value for _, value in points):.2f} and {max(value for _, value in points):.2f}, "
        f"the ledger's upper bound at {ledger:.2f}.",
        [(name, value, value, value) for name, value in points],
        x_label=f"epsilon at delta {record['delta']:g}",
        marks=[("ledger", ledger), ("ideal canaries (f-DP)", record["ceiling"])],
        figures=figures,
    )
    return Section(
        anchor="bounds",
        title="Empirical epsilon",
        paragraphs=[
            f"The auditor guessed about {game['made']} of {game['canaries']} crafted users and was right "
            f"{game['correct']} times.",
            _CANNOT,
        ],
        charts=[chart],
        tables=[figures],
    )


def _conformance(record: Mapping[str, Any]) -> Section:
    findings = record["this_run"]["findings"]
    bad = [one for one in findings if one["flagged"]]
    verdict = (
        Verdict(text=f"{len(bad)} of {len(findings)} tests of the mechanism fail.", mood="bad")
        if bad
        else Verdict(text=f"All {len(findings)} tests of the mechanism pass.", mood="good")
    )
    return Section(
        anchor="conformance",
        title="Conformance of the mechanism",
        verdicts=[verdict],
        paragraphs=[
            "The auditor called the silos' own code on inputs of its choice (an empty silo, one user more, the same "
            "input twice) and tested the scale and independence of the noise and how far one user can move a sum. A "
            f"correct mechanism fails any of them with probability {record['family_error']:g} at most."
        ],
        tables=[_findings("Tests that fail", bad)] if bad else [],
        folded=[_findings("All tests", findings)],
    )


def _boundary(found: Sequence[Mapping[str, Any]]) -> Section:
    rows = [
        [
            one["name"],
            f"{one['tried']:,}",
            f"{one['breached']:,}",
            "; ".join(
                f"{name}: {'yes' if seen else 'no'}" for name, seen in one.get("broken_copies_caught", {}).items()
            )
            or "-",
        ]
        for one in found
    ]
    return Section(
        anchor="boundary",
        title="A server that lies, a file that is dirty",
        verdicts=[Verdict(text=one["found"], mood="bad" if one["breached"] else "good") for one in found],
        paragraphs=[
            "Two silos that differ by one user were asked what no honest server asks: their answers must be of one "
            "kind and size, their ledgers equal, and their sums before the noise at most one clip norm apart. And "
            "files that differ by one user's rows, with whatever cells, were read: nobody else's history may change."
        ],
        tables=[
            Table(
                caption="What was tried and found",
                header=["instrument", "tried", "breaches", "broken copies caught"],
                rows=rows,
                numeric=frozenset({1, 2}),
            )
        ],
    )


def _findings(caption: str, findings: Sequence[Mapping[str, Any]]) -> Table:
    return Table(
        caption=caption,
        header=["test", "release", "measured", "promised", "unit", "p", "verdict"],
        rows=[
            [
                one["instrument"],
                one["stage"],
                f"{one['measured']:.4g}",
                f"{one['promised']:.4g}",
                one["unit"],
                f"{one['p_value']:.2g}",
                "fails" if one["flagged"] else "passes",
            ]
            for one in findings
        ],
        numeric=frozenset({2, 3, 5}),
    )


def _power(record: Mapping[str, Any]) -> Section:
    rows = []
    for one in record["power"]:
        bounds = one["bounds"][0]
        rows.append([
            one["name"],
            "yes" if one["caught"] else "no",
            "; ".join(one["caught_by"]) or "-",
            number(bounds["one_run"], 2),
            number(bounds["one_run_fdp"], 2),
            number(bounds["gaussian"]["epsilon"], 2),
        ])  # fmt: skip
    caption = f"The same audit elsewhere; bounds at {record['power'][0]['bounds'][0]['confidence']:.0%}"
    return Section(
        anchor="power",
        title="What this audit is able to see",
        paragraphs=[
            "An audit is worth as much as the faults that it would find. The null is an audit in which no crafted "
            "user took part; each broken copy has one deliberate fault. All claim the same epsilon."
        ],
        tables=[
            Table(
                caption=caption,
                header=["mechanism", "caught", "by", "one run", "f-DP one run", "Gaussian fit"],
                rows=rows,
                numeric=frozenset({3, 4, 5}),
            )
        ],
    )


def _attacks(attacks: Mapping[str, Any]) -> Section:
    updates = attacks["reconstruction_from_update"] | {"guessing popular items": attacks["popularity_guessing"]}
    return Section(
        anchor="attacks",
        title="Attacks",
        paragraphs=[
            "An AUC of 0.5 and an advantage of 0 are coin tossing. Intervals are 95%, over people.",
            "What a list shows of the person it was made for is not covered by the guarantee: the list follows from "
            "that person's own history, inside the silo. Whoever sees the list learns about its owner.",
        ],
        charts=[_membership(attacks["membership"]), _recovery_chart("Reconstruction from one update", updates)],
        tables=[
            _recovery_table("Reconstruction from one update", updates),
            _recovery_table("Reconstruction from a served list, by model", attacks["reconstruction_from_lists"]),
        ],
    )


def _membership(by_model: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Chart:
    found = [(f"{group}, {model}", one) for model, groups in by_model.items() for group, one in groups.items()]
    title = "Membership inference from the item embeddings"
    figures = Table(
        caption=title,
        header=["people, model", "AUC", "advantage", "members", "others"],
        rows=[
            [name, interval(one["auc"]), interval(one["advantage"]), str(one["members"]), str(one["others"])]
            for name, one in found
        ],
        numeric=frozenset({3, 4}),
    )
    rows = [
        (name.replace(", ", "\n"), one["auc"]["value"], one["auc"]["low"], one["auc"]["high"]) for name, one in found
    ]
    said = "; ".join(f"{name}: AUC {interval(one['auc'])}" for name, one in found)
    return interval_chart(
        title, said, rows, x_label="AUC", marks=[("coin tossing", 0.5)], start=None, figures=figures
    )


def _recovery_chart(title: str, found: Mapping[str, Mapping[str, Any]]) -> Chart:
    rows = [
        (name.replace(", ", "\n"), one["share"]["value"], one["share"]["low"], one["share"]["high"])
        for name, one in found.items()
    ]
    said = "; ".join(f"{name}: {one['share']['value']:.0%} of the history" for name, one in found.items())
    figures = _recovery_table(title, found)
    return interval_chart(title, said, rows, x_label="share of the history that is named", figures=figures)


def _recovery_table(caption: str, found: Mapping[str, Mapping[str, Any]]) -> Table:
    return Table(
        caption=caption,
        header=["what the attacker sees", "share of the history named", "AUC over items", "people"],
        rows=[
            [name, interval(one["share"]), interval(one["auc"]), str(one["people"])] for name, one in found.items()
        ],
        numeric=frozenset({3}),
    )
