"""Sections of one run: guarantee, budget, quality, certificates, configuration, versions."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recsys_fed.certificates.run import verify_run
from recsys_fed.errors import DataFormatError, DataNotFoundError
from recsys_fed.evaluation.metrics import SHOWN_NAMES
from recsys_fed.federation.run_files import CERTIFICATES, EMBEDDINGS, EVENTS
from recsys_fed.privacy.guarantee import Guarantee
from recsys_fed.report.html.budget_page import Spent, budget_section, spent_by_events, spent_by_ledger
from recsys_fed.report.html.charts import interval_chart
from recsys_fed.report.html.figures import number
from recsys_fed.report.html.page import Section, Table, Verdict
from recsys_fed.report.privacy import ONLY_THE_SUM, SIMULATED, run_record
from recsys_fed.simulation.record import CONFIG, METRICS

_SHOWN = (*SHOWN_NAMES, "coverage@20")


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
    checked = _checked(folder)
    yield _guarantee(record, checked)
    yield budget_section(_spent(folder, record))
    yield _quality(record)
    if checked is not None:
        yield _certificates(checked)
    yield configuration_section(folder, record)


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
            f"silos; {record['trainer']}, {record['rounds']} rounds. Noise: {record['noise_note']}."
        ],
    )


def _spent(folder: Path, record: Mapping[str, Any]) -> list[Spent]:
    ledgers = sorted((folder / "ledgers").glob("*/ledger.sqlite"), key=lambda path: (len(path.parent.name), path))
    if ledgers:
        return [spent_by_ledger(str(path)) for path in ledgers]
    epsilon = float(record["epsilon"])
    return spent_by_events(folder / EVENTS, Guarantee(epsilon=epsilon, delta=record["delta"]))


def _quality(record: Mapping[str, Any]) -> Section:
    shown = [name for name in _SHOWN if name in record["metrics"]]
    figures = Table(
        caption="Quality of the model beside popularity",
        header=["metric", record["trainer"], "popularity"],
        rows=[[name, number(record["metrics"][name], 4), number(record["popularity"][name], 4)] for name in shown],
        numeric=frozenset({1, 2}),
    )
    ranked = [(name, record["metrics"][name], record["popularity"][name]) for name in shown if "coverage" not in name]
    chart = interval_chart(
        "Quality beside popularity",
        "; ".join(f"{name}: {model:.3f}, popularity {popular:.3f}" for name, model, popular in ranked),
        [(name, model, min(model, popular), max(model, popular)) for name, model, popular in ranked],
        x_label="metric; the line reaches from popularity to the model (dot)",
        figures=figures,
    )  # fmt: skip
    private = record.get("private_metrics") or {}
    reported = "; ".join(
        f"{name} {value['value']:.4f} (noise of {value['noise']:.4f})" for name, value in private.items()
    )
    return Section(
        anchor="quality",
        title="Quality",
        paragraphs=[f"{record['note']}.", *([f"As the silos report it, privately: {reported}."] if reported else [])],
        charts=[chart],
        tables=[figures],
    )


def _checked(folder: Path) -> dict[str, Any] | None:
    """The run's certificates, verified now; None where there are none."""
    try:
        return run_record(verify_run(folder / CERTIFICATES, events=folder / EVENTS, model=folder / EMBEDDINGS))
    except DataNotFoundError:
        return None


def _certificates(checked: Mapping[str, Any]) -> Section:
    if checked["holds"]:
        verdict = Verdict(text="All certificates hold: signatures, events, epsilon and model agree.", mood="good")
    else:
        verdict = Verdict(text=f"{len(checked['problems'])} things do not hold.", mood="bad")
    by_silo = Table(
        caption="Silos of this run",
        header=["silo", "public key", "releases", "epsilon of this run", "epsilon in all", "limit"],
        rows=[
            [
                silo["silo"],
                silo["public_key"][:16],
                str(silo["releases"]),
                number(silo["epsilon_of_run"]),
                number(silo["epsilon_in_all"]),
                number(silo["epsilon_limit"]),
            ]
            for silo in checked["silos"]
        ],
        numeric=frozenset({2, 3, 4, 5}),
    )
    return Section(
        anchor="certificates",
        title="Certificates",
        verdicts=[verdict],
        paragraphs=[*checked["problems"], "They were verified when this page was made, from the files of the run."],
        tables=[by_silo],
    )


def configuration_section(folder: Path, record: Mapping[str, Any]) -> Section:
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
