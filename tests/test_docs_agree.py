"""What the documentation says of the code can be checked: paths, modules, links, and who imports what."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from recsys_fed.logs import FIELDS
from recsys_fed.silo.messages import ANSWERED, FAILED, REFUSED

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(page for folder in (".", "docs", "docs/adr", "docs/learn") for page in ROOT.glob(f"{folder}/*.md"))
ROOMS = [path.name for path in (ROOT / "recsys_fed").iterdir() if (path / "__init__.py").is_file()]
# Decisions tell how it was when they were made.
CURRENT = [path for path in PAGES if path.parent.name != "adr" and path.name != "CHANGELOG.md"]
# Made at build time, or a file that has a room's name before its suffix.
ELSEWHERE = {
    "recsys_fed/flower-app",
    "silo.toml",
    "audit.json",
    "federation.json",
    "federation.toml",
    "catalogue.parquet",
}
# Who may import what, and the sentence of docs/architecture.md that says so.
IMPORTERS = {
    "flwr": {
        "server", "client", "recsys_fed.federation.wire", "recsys_fed.federation.inprocess",
        "recsys_fed.deployment.gated", "recsys_fed.deployment.warm_clientapp", "recsys_fed.audit",
    },
    "cryptography": {
        "recsys_fed.signing", "recsys_fed.privacy.random_bits", "recsys_fed.federation.secure_aggregation",
        "recsys_fed.silo.secret", "recsys_fed.deployment._keys",
    },
    "sqlalchemy": {
        "recsys_fed.database", "recsys_fed.ledger", "recsys_fed.serving", "recsys_fed.data.readers._database",
    },
    "opacus": {"recsys_fed.privacy", "recsys_fed.trainers", "recsys_fed.deployment.warm_clientapp"},
}  # fmt: skip


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.name)
def test_paths_and_modules_that_a_page_names_are_there(page):
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:recsys_fed|server|client|simulations|tests|docs|examples)/[\w/.-]+)`", text))
    lost = {path for path in named - ELSEWHERE if not (ROOT / path).exists()}
    for room, module in re.findall(rf"`(?:recsys_fed\.)?({'|'.join(ROOMS)})\.(\w+)(?:\.\w+)*`", text):
        home = ROOT / "recsys_fed" / room
        if (
            f"{room}.{module}" not in ELSEWHERE
            and not (home / f"{module}.py").exists()
            and not (home / module).is_dir()
        ):
            lost.add(f"{room}.{module}")
    assert not lost


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert not {target for target in targets if not (page.parent / target).exists()}


@pytest.mark.parametrize("library", IMPORTERS)
def test_a_library_is_imported_where_the_page_says_and_nowhere_else(library):
    command = ["git", "ls-files", "recsys_fed", "server", "client"]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    importers = {
        file.removesuffix(".py").replace("/", ".")
        for file in files
        if file.endswith(".py") and library in imported(ast.parse((ROOT / file).read_text(encoding="utf-8")))
    }
    outside = {
        module for module in importers if not any(f"{module}.".startswith(f"{may}.") for may in IMPORTERS[library])
    }
    assert not outside
    assert all(any(f"{module}.".startswith(f"{may}.") for module in importers) for may in IMPORTERS[library])


def test_the_contracts_are_those_of_the_page():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers, *forbidding = settings["tool"]["importlinter"]["contracts"]
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert "".join(f"      {row}\n" for row in layers["layers"]) in page
    for contract in forbidding:
        names = [f"`{name}`" for name in contract["forbidden_modules"]]
        listed = f"never reaches {', '.join(names[:-1])} or {names[-1]}."
        assert listed in " ".join(page.split()), contract["id"]
        assert all(f"`{name}`" in page for name in contract["source_modules"])


def test_every_package_has_a_row_in_the_table_of_rooms():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for room in ROOMS:
        assert any(f"`recsys_fed/{room}/`" in row for row in rows), room
    for module in (path.name for path in (ROOT / "recsys_fed").glob("*.py")):
        assert any(f"`recsys_fed/{module}`" in row or f"`{module}`" in row for row in rows), module


def imported(tree):
    """Top-level packages that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_the_table_of_logs_is_what_is_written():
    """Rows of events and their fields, against what the code writes and what a line may hold."""
    sources = [path.read_text() for path in (ROOT / "recsys_fed").rglob("*.py")]
    page = (ROOT / "docs" / "deployment.md").read_text()
    table = page[page.index("## Logs") : page.index("## Monitoring")]
    rows = re.findall(r"^\|[^|]*\| `([a-z ]+)` \| ([^|]*) \|$", table, re.MULTILINE)[1:]
    for event, fields in rows:
        assert any(f'"{event}"' in text for text in sources), f"nothing writes {event}"
        assert set(re.findall(r"\b[a-z_]+(?=,|$|:)", fields.split(": ")[0])) <= FIELDS, event
    written = set(re.findall(r'(?:_say|log\.write)\(\s*"([a-z ]+)"', "".join(sources)))
    assert written | {ANSWERED, REFUSED, FAILED} == {event for event, _ in rows}
