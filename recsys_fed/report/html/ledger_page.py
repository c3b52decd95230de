"""Sections of a ledger: whether it holds, its budget over time, and its terms."""

from collections.abc import Iterator

from recsys_fed.ledger.verification import JSON_LINES, verification_record
from recsys_fed.report.html.budget_page import budget_section, spent_by_ledger
from recsys_fed.report.html.figures import number
from recsys_fed.report.html.page import Section, Table, Verdict
from recsys_fed.report.privacy import SIMULATED


def ledger_sections(address: str) -> Iterator[Section]:
    """All sections of a ledger or of its export; it is verified as the page is made."""
    record = verification_record(address)
    if not record["holds"]:
        bad = Verdict(text=f"The ledger does not hold: {record['problem']}", mood="bad")
        yield Section(anchor="ledger", title="The ledger", verdicts=[bad])
        return
    terms, spent = record["terms"], record["spending"]
    verdicts = [
        Verdict(text=record.get("guarantee", "") or _promise(terms)),
        Verdict(text="The ledger holds: chain, signatures, times and limits agree.", mood="good"),
    ]
    if terms["simulated"]:
        verdicts.append(Verdict(text=f"This silo is {SIMULATED}.", mood="bad"))
    yield Section(
        anchor="ledger",
        title="The ledger",
        verdicts=verdicts,
        paragraphs=[
            f"{record['entries']:,} entries, {record['releases']:,} of them releases, from {record['first']} to "
            f"{record['last']}. Epsilon {number(spent['epsilon'])} of {number(spent['epsilon_limit'])} is spent at "
            f"delta {spent['delta']:g}."
        ],
        tables=[
            Table(
                caption="Terms of the silo",
                header=["term", "value"],
                rows=[[name.replace("_", " "), str(value)] for name, value in terms.items()],
            )
        ],
    )
    if not address.endswith(JSON_LINES):
        yield budget_section([spent_by_ledger(address)])


def _promise(terms: dict[str, object]) -> str:
    limit = terms["epsilon_limit"]
    return f"The silo {terms['silo']} lets every user's epsilon grow to {limit} at most, over its lifetime."
