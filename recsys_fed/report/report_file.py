"""From a place to its page: which kind of thing lies there, and one HTML file."""

import json
from pathlib import Path
from typing import Any

from recsys_fed.comparison.record import FILE as COMPARED
from recsys_fed.comparison.record import KIND as COMPARISON
from recsys_fed.deployment.federation import FILE as FEDERATION
from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError
from recsys_fed.report._page import Page, Section, Verdict, render
from recsys_fed.report.audit import audit_sections
from recsys_fed.report.comparison import compared_sections
from recsys_fed.report.life import life_sections
from recsys_fed.report.privacy import ledger_sections
from recsys_fed.report.run import comparison_sections, metrics_of, run_sections
from recsys_fed.simulation.record import METRICS

AUDIT, REPORT = "audit.json", "report.html"
_LEDGERS = (".sqlite", ".jsonl")


def write_report(place: str, *, output: Path | None = None) -> Path:
    """Write the page of a run, of several runs, a comparison, an audit, a federation, or a ledger; returns its path.

    Without `output` it goes into the folder, or beside the ledger's file.

    Raises:
        DataNotFoundError: there is nothing of the kind.
        ConfigurationError: matplotlib is missing, or the page cannot be written.
    """
    path = Path(place)
    page = _page_of(place)
    target = output or (path / REPORT if path.is_dir() else Path(path.name).with_suffix(".html"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(render(page), encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"Cannot write the report to {target}: {error}.") from error
    return target


def _page_of(place: str) -> Page:
    """The page of what lies at a path, or of a ledger's URL."""
    path = Path(place)
    if path.is_dir():
        return _page_of_folder(path)
    if "://" in place or (path.is_file() and path.suffix in _LEDGERS):
        return _page("Privacy ledger", tuple(ledger_sections(place)))
    raise DataNotFoundError(f"Cannot find a run, several runs, an audit or a ledger at {place}.")


def _page_of_folder(folder: Path) -> Page:
    if (folder / FEDERATION).is_file():
        return _page("A federation's life", tuple(life_sections(folder)))
    sections: list[Section] = []
    named = []
    if (folder / METRICS).is_file():
        sections += run_sections(folder)
        named.append("run")
    if (folder / AUDIT).is_file():
        sections += audit_sections(_record(folder / AUDIT, kind="audit"))
        named.append("audit")
    runs = [] if named else [(path.name, metrics_of(path)) for path in _runs(folder)]
    if (folder / COMPARED).is_file():
        sections += compared_sections(_record(folder / COMPARED, kind=COMPARISON))
        named.append("comparison by silo")
    if runs:
        sections += comparison_sections(runs)
        named.append("comparison")
    if not named:
        raise DataNotFoundError(
            f"Cannot find {METRICS}, {AUDIT} or folders of runs in {folder}. Give --output to `simulate` or `audit`."
        )
    return _page(f"Privacy report: {' and '.join(named)}", tuple(sections))


def _runs(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob(f"*/{METRICS}"))


def _record(path: Path, *, kind: str) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["kind"] != kind:
            raise ValueError("it is another record")
    except (ValueError, KeyError, TypeError) as error:
        raise DataFormatError(f"Expected a record of kind {kind} in {path}: {error}.") from error
    found: dict[str, Any] = record
    return found


def _page(title: str, sections: tuple[Section, ...]) -> Page:
    """The first verdict is what a reader in a hurry should take away."""
    first: list[Verdict] = [verdict for section in sections for verdict in section.verdicts][:1]
    return Page(title=title, lead=first[0].text if first else "", sections=sections)
