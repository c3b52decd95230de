"""The page of claims is about sentences that are there, and names tests and code that are there."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
SOURCES = [ROOT / "README.md", ROOT / "docs" / "privacy.md"]


def plain(text: str) -> str:
    """Without the marks of Markdown and the ends of lines."""
    unlinked = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"\s+", " ", re.sub(r"[*`_]", "", unlinked))


SAID = plain(" ".join(path.read_text(encoding="utf-8") for path in SOURCES))
QUOTED = re.findall(r'^\| "([^"]+)" \|', PAGE, flags=re.MULTILINE)


@pytest.mark.parametrize("quotation", QUOTED)
def test_a_quotation_stands_where_it_says(quotation):
    assert plain(quotation) in SAID


def test_every_sentence_of_the_readmes_guarantees_has_a_row():
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## What is guaranteed")[1].split("\n## ")[0]
    for bullet in re.split(r"\n- ", section)[1:]:
        assert any(plain(quotation) in plain(bullet) for quotation in QUOTED), bullet


def test_every_sentence_of_the_promise_has_a_row():
    section = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8").split("## The promise")[1].split("\n## ")[0]
    # What the unit and the neighbouring relation are is said, not claimed.
    for bullet in re.split(r"\n- ", section)[1:]:
        if not bullet.startswith(("*Unit*", "*Neighbouring relation*")):
            assert any(plain(quotation) in plain(bullet) for quotation in QUOTED), bullet


@pytest.mark.parametrize("named", sorted(set(re.findall(r"`(tests/[^`]+)`", PAGE))))
def test_a_test_that_is_named_exists(named):
    path, _, name = named.partition("::")
    assert (ROOT / path).exists(), path
    if name:
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("named", sorted(set(re.findall(r"`(recsys_fed\.[\w.]+:[\w.]+)`", PAGE))))
def test_code_that_is_named_exists(named):
    module, _, name = named.partition(":")
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    assert found.__doc__
