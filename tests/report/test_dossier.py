"""Dossiers: every figure stands in its named source, blanks are marked, and no verdict on the law is given."""

import hashlib
import json
import math
import re
import shutil
import subprocess
import tomllib
from html.parser import HTMLParser

import pytest
from chromium import BROWSER, chromium
from command_line import run_command

from recsys_fed.audit.audit import AuditSettings, audit
from recsys_fed.certificates.terms import LedgerTerms
from recsys_fed.config import FederationConfig, SimulationConfig
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.privacy.events import ReleaseEvent
from recsys_fed.privacy.guarantee import Guarantee
from recsys_fed.report._evidence import shown
from recsys_fed.signing import SigningKey

DATA = "generated:users=200,items=60,interactions=12"
# Numbers of prose: articles, opinions, the publication, and the name of a metric.
REFERENCES = re.compile(
    r"Articles? \d+(\(\d+\))*( (to|and) \d+)?|Recital \d+|Opinion \d+/\d+|800-226|SHA-256|sha256sum|NDCG@20"
)


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """A masked run, with the record of an audit beside it."""
    folder = tmp_path_factory.mktemp("dossiers") / "audit"
    config = FederationConfig(silos=3, secure_aggregation="on", epsilon=4.0, threads=1)
    small = AuditSettings(canaries=20, people=10, hostile_requests=4, neighbouring_files=4, power=False)
    audit(config, SimulationConfig(data=DATA), small, folder=folder)
    code, out, err = run_command("dossier", folder, "--json")
    assert code == 0, err
    return folder, json.loads(out)


def a_silo(folder):
    """The folder of a silo whose ledger holds one release."""
    folder.mkdir(parents=True)
    key = SigningKey.generate()
    terms = LedgerTerms(
        silo="clinic", public_key=key.public_key, guarantee=Guarantee(epsilon=3.0), declared_users=500
    )
    ledger = Ledger.create(str(folder / "ledger.sqlite"), key=key, terms=terms)
    event = ReleaseEvent(
        noise_multiplier=4.0, l2_clip_norm=1.0, released="item counts", round=0, stage="counts",
        noise_source="operating-system", trainer="popularity",
    )  # fmt: skip
    ledger.charge(event, run="first", request="0" * 64, code_version="1", keep=False)
    (folder / "silo.toml").write_text(
        '[silo]\nname = "clinic"\ntrainings = 5\n[agreed]\nepsilon = 2.5\nsilos = 4\n'
        '[data]\nsource = "csv"\npath = "rows.csv"\nuser = "patient"\nitem = "drug"\n'
    )
    return folder


class Cells(HTMLParser):
    """The rows of all tables, as texts, and the prose outside of them."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.prose, self._cell = [], "", False
        self.feed(text[text.index("<body>") :])

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data):
        if self._cell:
            self.rows[-1][-1] += data
        else:
            self.prose += data


def read(path, read_by):
    """What pointers point into, by what the dossier says."""
    if read_by.startswith("recsys-fed privacy verify-run"):
        return json.loads(run_command("privacy", "verify-run", path.parent, "--json")[1])
    if read_by.startswith("recsys-fed privacy verify"):
        return json.loads(run_command("privacy", "verify", path, "--json")[1])
    text = path.read_text()
    if read_by == "TOML":
        return tomllib.loads(text)
    return json.loads(text) if read_by == "JSON" else [json.loads(line) for line in text.splitlines()]


def resolve(record, pointer):
    """RFC 6901."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        record = record[int(key)] if isinstance(record, list) else record[key]
    return record


def check_figures(folder, record):
    """Read every source again, by its own means, and find every figure in it."""
    sources = {}
    for source in record["sources"]:
        path = folder / source["file"]
        if path.is_dir():
            names = sorted(one.name for one in path.iterdir())
            printed = subprocess.run(["sha256sum", *names], cwd=path, capture_output=True, check=True).stdout
            assert hashlib.sha256(printed).hexdigest() == source["sha256"]
        else:
            assert hashlib.sha256(path.read_bytes()).hexdigest() == source["sha256"]
        sources[source["name"]] = read(path, source["read_by"])
    for figure in record["figures"]:
        values = [resolve(sources[figure["source"]], pointer) for pointer in figure["pointers"]]
        if figure["formula"]:
            epsilon, delta = map(float, values)
            values = [(math.exp(epsilon) + delta) / (1 + math.exp(epsilon))]
        assert figure["value"] == pytest.approx(values[0]) if figure["formula"] else figure["value"] == values[0]
        assert figure["shown"] == shown(figure["value"])


def check_page(text, record):
    """Each number on the page is a figure's, in a row with its source; all else has references only."""
    page = Cells(text)
    figures = [(figure["shown"], figure["source"], tuple(figure["pointers"])) for figure in record["figures"]]
    for row in page.rows:
        cells = [cell.strip() for cell in row]
        if re.fullmatch(r"S\d+", cells[0]):
            assert any(cells[1:3] == [source["file"], source["sha256"]] for source in record["sources"])
        elif re.match(r"S\d+ /", cells[-1]):
            name, *pointers = re.sub(r", \(e\^.*", "", cells[-1]).split(" ", 1)
            assert (cells[1], name, tuple(pointers[0].split(" and "))) in figures
        else:
            assert not re.search(r"\d", REFERENCES.sub("", " ".join(cells[:2]))), cells
    prose = page.prose.replace(record["title"], "")
    for finding in record["findings"]:
        assert finding in prose
        prose = prose.replace(finding, "")
    assert not re.search(r"\d", REFERENCES.sub("", prose))


def test_every_number_of_a_dossier_stands_in_its_named_source(masked):
    folder, record = masked
    assert len(record["figures"]) > 60
    check_figures(folder, record)
    text = (folder / "dossier" / "dossier.html").read_text()
    check_page(text, record)
    assert json.loads((folder / "dossier" / "dossier.json").read_text()) == record
    by_label = {figure["label"]: figure for figure in record["figures"]}
    assert by_label["least number of silos in a sum that the server sees"]["value"] == 3
    assert by_label["AUC of guessing who took part, ordinary users (a coin has one half)"]["file"] == "audit.json"
    assert by_label["certificates, events and model hold together"]["value"] is True
    assert str(folder.parent) not in text, "paths of this machine stay here"


def test_a_figure_that_is_not_in_its_source_would_be_found(masked):
    folder, record = masked
    first = next(figure for figure in record["figures"] if isinstance(figure["value"], float))
    other = first | {"value": first["value"] + 1}
    figures = [other if figure is first else figure for figure in record["figures"]]
    with pytest.raises(AssertionError):
        check_figures(folder, record | {"figures": figures})
    text = (folder / "dossier" / "dossier.html").read_text()
    with pytest.raises(AssertionError):
        check_page(text.replace("<p>Each figure", "<p>Of 12 users each figure"), record)


def test_it_leaves_to_people_what_only_they_can_say(masked):
    folder, record = masked
    text = (folder / "dossier" / "dossier.html").read_text()
    assert text.count("<mark>To be filled in") == len(record["blanks"]) > 20
    assert {blank["section"] for blank in record["blanks"]} >= {"description", "risks", "record", "anonymity", "nist"}
    assert not re.search(r"complian|complies|is lawful\b(?!,)|is anonymous\b(?! in)", text)
    assert "protects nobody" in text, "the run was simulated"


def test_the_dossier_of_a_silo_without_an_audit(tmp_path):
    folder = a_silo(tmp_path / "clinic")
    code, out, err = run_command("dossier", folder, "--json")
    assert code == 0, err
    record = json.loads(out)
    check_figures(folder, record)
    check_page((folder / "dossier" / "dossier.html").read_text(), record)
    values = {figure["label"]: figure["value"] for figure in record["figures"]}
    assert values["name of the silo"] == "clinic"
    assert values["limit of that silo"] == 3.0
    assert values["source of the noise"] == "operating-system"
    assert record["findings"] == []
    assert "no audit in this folder" in (folder / "dossier" / "dossier.html").read_text()
    assert run_command("dossier", folder)[0] == 0, "it is made anew"


def test_evidence_that_does_not_hold_is_said_to_be_none(masked, tmp_path):
    folder = a_silo(tmp_path / "clinic")
    spent = Ledger.open(str(folder / "ledger.sqlite")).spending().epsilon
    code, out, _ = run_command("dossier", folder, "--audit", masked[0], "--json")
    figures = {figure["label"]: figure for figure in json.loads(out)["figures"]}
    assert (code, figures["epsilon spent, the silo that has spent most"]["value"]) == (0, spent)
    assert figures["crafted users"]["file"] == "audit.json"
    run = shutil.copytree(masked[0] / "run", tmp_path / "run")
    with (run / "item_embeddings.safetensors").open("ab") as file:
        file.write(b"0")
    assert run_command("dossier", run)[0] == 0
    assert "does not hold, nothing follows from it" in (run / "dossier" / "dossier.html").read_text()


def test_what_is_none_of_these_is_refused(tmp_path):
    code, _, err = run_command("dossier", tmp_path)
    assert (code, "Cannot find a run" in err) == (2, True)
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
    code, _, err = run_command("dossier", a_silo(tmp_path / "silo"), "--audit", tmp_path / "none")
    assert (code, "Cannot find an audit" in err) == (2, True)


def test_it_is_a_document_for_a_word_processor_too(masked, tmp_path):
    docx = pytest.importorskip("docx")
    folder, record = masked
    assert run_command("dossier", folder, "--docx", "--output", tmp_path)[0] == 0
    document = docx.Document(str(tmp_path / "dossier.docx"))
    cells = [cell.text for table in document.tables for row in table.rows for cell in row.cells]
    assert sum(text.startswith("To be filled in") for text in cells) == len(record["blanks"])
    assert all(figure["shown"] in cells for figure in record["figures"])


@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_it_fits_a_phone_and_a_desk(masked, tmp_path):
    with chromium(tmp_path) as tab:
        for width in (390, 1280):
            layout = tab.show(masked[0] / "dossier" / "dossier.html", width=width)
            assert (layout["width"], layout["scroll"], layout["wide"]) == (width, width, [])
        assert tab.complaints == []
