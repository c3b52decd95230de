"""`recsys-fed audit` and `recsys-fed report`, and the pages in a real browser."""

import json
import re
import shutil
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from unittest import mock

import pytest
from chromium import BROWSER, chromium
from command_line import json_of, run_command
from made_once import made_once

from recsys_fed.audit.audit import AuditSettings
from recsys_fed.errors import ConfigurationError
from recsys_fed.report._page import Page, Section, Table, Verdict, render

DATA = ["--data", "generated:users=200,items=120,interactions=12", "--silos", 2, "--threads", 1]


def make_places(base):
    """A run, a comparison of two, an audit, a ledger and its export; each with its page."""
    for epsilon in (2, 8):
        run = base / "runs" / f"epsilon-{epsilon}"
        assert run_command("simulate", *DATA, "--epsilon", epsilon, "--output", run)[0] == 0
    few = partial(AuditSettings, hostile_requests=20, neighbouring_files=6, runs=20)
    with mock.patch("recsys_fed.audit.audit.AuditSettings", few):
        code, _, err = run_command("audit", *DATA, "--epsilon", 4, "--canaries", 60, "--output", base / "audit")
    assert code == 0, err
    code, _, err = run_command("compare", *DATA, "--epsilons", 4, "--new-items", 0.1, "--output", base / "compared")
    assert code == 0, err
    ledger = places_of(base)["ledger"]
    run_command("privacy", "export", ledger, "--output", base / "silo.jsonl")
    for name, place in places_of(base).items():
        code, out, err = run_command("report", place, "--output", base / f"{name}.html")
        assert code == 0, err
        assert out.strip() == str(base / f"{name}.html")


def places_of(base):
    run = base / "runs" / "epsilon-2"
    return {
        "run": run,
        "comparison": base / "runs",
        "compared": base / "compared",
        "audit": base / "audit",
        "ledger": run / "ledgers" / "silo-0" / "ledger.sqlite",
        "export": base / "silo.jsonl",
    }


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """What `make_places` leaves."""
    base = made_once(tmp_path_factory, "reports", make_places)
    return places_of(base) | {"pages": base}


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    """A browser for all pages."""
    if BROWSER is None:
        pytest.skip("needs chromium")
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


class Outline(HTMLParser):
    """Tags and attributes in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if "id" in attributes:
            self.ids.append(attributes["id"])


NAMES = ["run", "comparison", "compared", "audit", "ledger", "export"]
CHARTS = {"run": 2, "comparison": 1, "compared": 2, "audit": 3, "ledger": 1, "export": 0}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_fit_and_draw_every_chart_without_a_complaint(places, tab, name, width, dark):
    tab.complaints.clear()
    layout = tab.show(places["pages"] / f"{name}.html", width=width, dark=dark)
    assert tab.complaints == []
    assert (layout["width"], layout["scroll"], layout["wide"]) == (width, width, [])
    assert len(layout["charts"]) == CHARTS[name]
    for chart in layout["charts"]:
        assert chart["width"] > 280
        assert chart["height"] > 150
        assert chart["shapes"] > 10
        assert chart["cut"] == 0
    paper, ink = (brightness(colour) for colour in layout["colours"])
    assert (paper < 60 and ink > 200) if dark else (paper > 240 and ink < 60)


@pytest.mark.parametrize("name", NAMES)
def test_pages_need_nothing_from_elsewhere_and_can_be_read_aloud(places, name):
    text = (places["pages"] / f"{name}.html").read_text()
    outline = Outline(text)
    assert len(set(outline.ids)) == len(outline.ids), "ids are unique"
    for tag, attributes in outline.tags:
        assert tag not in ("script", "iframe", "img", "object")
        for key in ("src", "href", "xlink:href"):
            assert not str(attributes.get(key, "")).startswith(("http", "//", "file:"))
        if tag == "svg":
            assert attributes["role"] == "img"
            assert set(attributes["aria-labelledby"].split()) <= set(outline.ids)
        if tag == "th":
            assert attributes["scope"] in ("col", "row")
    links = [a["href"].removeprefix("#") for tag, a in outline.tags if tag == "a"]
    assert set(links) <= set(outline.ids)
    assert "url(http" not in text
    assert ("html", {"lang": "en"}) in outline.tags


def test_the_run_page_says_what_a_data_protection_officer_asks(places):
    text = plain(places["pages"] / "run.html")
    record = json.loads((places["run"] / "metrics.json").read_text())
    assert "For anybody who sees everything" in text
    assert "protects nobody" in text
    assert "of all certificates agree" in text
    assert f"{record['metrics']['recall@20']:.4f}" in text
    assert "silo-0 and 1 alike" in text
    assert record["versions"]["torch"] in text
    assert str(Path(places["run"]).parent) not in text, "paths of this machine stay here"


def test_a_tampered_run_is_shown_as_one(places, tmp_path):
    shutil.copytree(places["run"], tmp_path / "run")
    with (tmp_path / "run" / "item_embeddings.safetensors").open("ab") as file:
        file.write(b"0")
    assert run_command("report", tmp_path / "run")[0] == 0
    text = plain(tmp_path / "run" / "report.html")
    assert "of all certificates agree" not in text
    assert "another model" in text


def test_the_audit_page_has_the_figures_of_the_record(places):
    record = json.loads((places["audit"] / "audit.json").read_text())
    text = plain(places["pages"] / "audit.html")
    assert record["caught"] == record["broken"] == 7
    assert "caught 7 of 7" in text
    assert f"{record['this_run']['bounds'][0]['one_run_fdp']:.3f}" in text
    assert "never says that it leaks no more" in text
    assert all(one["name"] in text for one in record["power"])
    assert max(record["ledger_epsilon"].values()) <= record["claimed_epsilon"] == 4


def test_what_is_no_run_and_no_ledger_is_refused(tmp_path):
    for place in (tmp_path, tmp_path / "nothing"):
        assert run_command("report", place)[0] == 2
    (tmp_path / "metrics.json").write_text("[]")
    assert run_command("report", tmp_path)[0] == 2
    code, _, err = run_command("audit", *DATA, "--epsilon", "inf", "--output", tmp_path / "x")
    assert (code, "finite epsilon" in err) == (2, True)


def test_an_audit_prints_its_record_and_fails_where_it_should(places, tmp_path):
    small = [*DATA, "--epsilon", 4, "--canaries", 20, "--no-power", "--no-attacks"]
    code, shown, _ = run_command("audit", *small, "--output", tmp_path)
    record = json_of((tmp_path / "audit.json").read_text())
    assert (code, record["flagged"], record["power"][2:], record["attacks"]) == (0, False, [], {})
    assert "Nothing in this audit contradicts the claim." in shown
    assert run_command("report", tmp_path)[0] == 0


def test_texts_are_escaped_and_anchors_are_unique():
    table = Table(caption="<b>", header=["a"], rows=[["<script>alert(1)</script>"]])
    section = Section(anchor="x", title="<i>", verdicts=[Verdict(text="<u>")], tables=[table])
    text = render(Page(title="<t>", lead="<l>", sections=[section]))
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    with pytest.raises(ConfigurationError, match="anchors"):
        render(Page(title="", lead="", sections=[section, section]))
    with pytest.raises(ConfigurationError, match="1 cells"):
        Table(caption="x", header=["a"], rows=[["b", "c"]])


def brightness(colour):
    return sum(int(part) for part in re.findall(r"\d+", colour)[:3]) / 3


def plain(path):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", path.read_text()))
