"""A dossier for a data-protection officer: what files show, with the source of each figure, and blanks for the rest.

Impact assessment (GDPR Article 35(7)), record of processing (Article 30), evidence on anonymity, NIST SP 800-226. The
questions are in dossier.toml; here they are answered from a folder. It never says that something is lawful.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from recsys_fed.errors import ConfigurationError
from recsys_fed.files import write_whole
from recsys_fed.report._evidence import Evidence, Figure, Source, gather_evidence, shown
from recsys_fed.report._page import Cell, Page, Section, Table, Verdict, render
from recsys_fed.report.privacy import ONLY_THE_SUM, SIMULATED
from recsys_fed.versions import import_extra, versions

FOLDER, HTML = "dossier", "dossier.html"
_BLANK = "To be filled in: "


@dataclass(frozen=True, kw_only=True)
class _Point:
    """A question with its answers."""

    asks: str
    says: str
    by: str
    figures: tuple[Figure, ...]
    missing: str
    blank: str

    def rows(self) -> Iterator[list[str]]:
        """Question or label, answer, where it comes from."""
        if self.says:
            yield [self.asks, self.says, f"by design: {self.by}"]
        for figure in self.figures:
            text = f"{figure.source.name} {' and '.join(figure.pointers)}"
            place = f"{text}, {figure.formula}" if figure.formula else text
            label = figure.label if self.says or self.blank else f"{self.asks}: {figure.label}"
            yield [label, shown(figure.value), Cell(place, href=f"#{figure.source.name}")]
        if self.missing:
            yield [self.asks, self.missing, "no source in this folder"]
        if self.blank:
            yield [self.asks, Cell(_BLANK + self.blank, blank=True), "a person"]


def write_dossier(
    folder: Path, *, audit: Path | None = None, output: Path | None = None, docx: bool = False
) -> dict[str, Any]:
    """Write dossier.html and dossier.json, and exports of the ledgers beside them; return the record of the latter.

    Args:
        folder: of a run, of an audit with its run, of a silo, or of a federation (its newest training counts).
        audit: audit.json, or its folder, where it is not in `folder`.
        output: where to write; by default a folder `dossier` in `folder`.
        docx: also dossier.docx, which needs python-docx.

    Raises:
        DataNotFoundError: there is nothing of the kind.
        DataFormatError, LedgerError: something cannot be read.
        ConfigurationError: it cannot be written. MissingExtraError: python-docx is not installed.
    """
    place = output or folder / FOLDER
    try:
        evidence = gather_evidence(folder, audit=audit, exports=place)
        sections = list(_sections(evidence))
        title = f"Dossier on data protection: {folder.resolve().name}"
        record = _record(sections, evidence, title)
        page = _page(sections, evidence, title)
        place.mkdir(parents=True, exist_ok=True)
        write_whole(place / HTML, render(page))
        write_whole(place / "dossier.json", json.dumps(record, indent=2) + "\n")
        if docx:
            _write_docx(page, place / "dossier.docx")
    except OSError as error:
        raise ConfigurationError(f"Cannot write the dossier to {place}: {error}.") from error
    return record


def _sections(evidence: Evidence) -> Iterator[tuple[Mapping[str, Any], list[_Point]]]:
    text = files("recsys_fed.report").joinpath("dossier.toml").read_text(encoding="utf-8")
    for section in tomllib.loads(text)["section"]:
        yield section, [_point(one, evidence) for one in section["point"]]


def _point(asked: Mapping[str, Any], evidence: Evidence) -> _Point:
    found = [figure for label, *where in asked.get("figures", ()) for figure in evidence.figures(label, where)]
    if "best_guess" in asked:
        found += evidence.best_guess(asked["best_guess"])
    return _Point(
        asks=asked["asks"],
        says=asked.get("says", ""),
        by=asked.get("by", ""),
        figures=tuple(found),
        missing="" if found else asked.get("missing", ""),
        blank=asked.get("blank", ""),
    )


def _record(
    sections: Sequence[tuple[Mapping[str, Any], list[_Point]]], evidence: Evidence, title: str
) -> dict[str, Any]:
    points = [(section, point) for section, found in sections for point in found]
    return {
        "kind": "dossier",
        "title": title,
        "made_by": {"recsys-fed": versions()["recsys-fed"]},
        "findings": [verdict.text for verdict in _verdicts(evidence)],
        "sources": [
            {"name": one.name, "file": one.file, "sha256": one.sha256, "read_by": one.read_by}
            for one in evidence.sources
        ],
        "figures": [
            {"section": section["anchor"], "asks": point.asks} | figure.to_record()
            for section, point in points
            for figure in point.figures
        ],
        "blanks": [
            {"section": section["anchor"], "asks": point.asks, "what": point.blank}
            for section, point in points
            if point.blank
        ],
    }


def _page(sections: Sequence[tuple[Mapping[str, Any], list[_Point]]], evidence: Evidence, title: str) -> Page:
    verdicts = _verdicts(evidence)
    pages = [
        Section(
            anchor=section["anchor"],
            title=section["title"],
            verdicts=verdicts if number == 0 else (),
            paragraphs=section.get("paragraphs", ()),
            tables=[
                Table(
                    caption=section["title"],
                    header=["point", "answer", "source"],
                    rows=[row for point in found for row in point.rows()],
                    texts=True,
                )
            ],
        )
        for number, (section, found) in enumerate(sections)
    ]
    lead = "Evidence for an assessment by people, with the source of every figure. No legal advice."
    return Page(title=title, lead=lead, sections=[*pages, _sources(evidence.sources)])


def _verdicts(evidence: Evidence) -> list[Verdict]:
    """What must not be overlooked."""
    found = []
    for source in (*evidence.of("verified"), *evidence.of("ledger")):
        if not source.record["holds"]:
            said = "; ".join(source.record.get("problems", ())) or str(source.record.get("problem"))
            found.append(Verdict(text=f"{source.name} does not hold, nothing follows from it: {said}", mood="bad"))
    verified = [source.record for source in evidence.of("verified")]
    ledgers = [source.record["terms"] for source in evidence.of("ledger") if source.record["holds"]]
    if any(record["simulated"] for record in (*verified, *ledgers)):
        found.append(Verdict(text=f"This was {SIMULATED}.", mood="bad"))
    if any(record["only_the_sum"] for record in verified):
        found.append(Verdict(text=f"In this run {ONLY_THE_SUM}.", mood="bad"))
    if any(source.record["flagged"] for source in evidence.of("audit")):
        found.append(Verdict(text="The audit contradicts the claimed epsilon.", mood="bad"))
    return found


def _sources(sources: Sequence[Source]) -> Section:
    return Section(
        anchor="sources",
        title="Sources",
        paragraphs=[
            "Compare a file with its SHA-256, then read it as the last column says. Files of a ledger are exports, "
            "made with this dossier: the ledger itself grows. The digest of a folder is that of what sha256sum "
            "prints of its files."
        ],
        tables=[
            Table(
                caption="Files that figures come from",
                header=["source", "file", "SHA-256", "how to read it"],
                rows=[[Cell(one.name, anchor=one.name), one.file, one.sha256, one.read_by] for one in sources],
                texts=True,
            )
        ],
    )


def _write_docx(page: Page, path: Path) -> None:
    """The same page for a word processor, so that blanks can be filled in; needs python-docx."""
    document = import_extra("docx").Document()
    document.add_heading(page.title, level=0)
    document.add_paragraph(page.lead)
    for section in page.sections:
        document.add_heading(section.title, level=1)
        for text in (*(verdict.text for verdict in section.verdicts), *section.paragraphs):
            document.add_paragraph(text)
        for table in section.tables:
            written = document.add_table(rows=0, cols=len(table.header), style="Table Grid")
            for row in (table.header, *table.rows):
                for cell, text in zip(written.add_row().cells, row, strict=True):
                    cell.text = str(text)
    document.save(str(path))
