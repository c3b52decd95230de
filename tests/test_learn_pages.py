"""The pages of docs/learn run as they stand in an empty folder, and print what they show."""

import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from learn_pages import INSTALL, LEARN, blocks_of, lines_not_printed

from recsys_fed import cli

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
# Starts real processes for minutes.
LONG = ("three-silos",)
PAGES = [pytest.param(path, marks=[pytest.mark.soak] if path.stem in LONG else [], id=path.stem)
         for path in sorted(LEARN.glob("*.md"))]  # fmt: skip


def in_this_process(words, monkeypatch):
    """Exit code of `recsys-fed ...` or `python FILE`, without the seconds that a new interpreter takes to import."""
    monkeypatch.setattr(sys, "argv", words if words[0] == "recsys-fed" else words[1:])
    try:
        cli.main() if words[0] == "recsys-fed" else runpy.run_path(words[1], run_name="__main__")
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def in_a_shell(line):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", line], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    sys.stdout.write(done.stdout + done.stderr)
    return done.returncode


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    """The working directory, from which scripts of a page import each other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_as_it_stands(page, empty_folder, monkeypatch, capsys):
    printed = ""
    for block in blocks_of(page):
        if block.language == "python":
            (empty_folder / block.title).write_text(block.text)
        elif block.language == "text":
            assert lines_not_printed(block.text, printed) == [], printed
        elif block.title != INSTALL:
            for line in block.commands():
                command, _, refused = line.partition(" || ")
                words = shlex.split(command)
                ours = words[0] == "recsys-fed" or (words[0] == "python" and words[1].endswith(".py"))
                code = in_this_process(words, monkeypatch) if ours and "*" not in command else in_a_shell(command)
                assert bool(code) == (refused == "true"), f"{line}: {capsys.readouterr()}"
            printed = "\n".join(capsys.readouterr())


def test_a_file_that_is_an_example_is_the_example():
    files = {block.title: block.text for path in LEARN.glob("*.md") for block in blocks_of(path) if block.title}
    named = {path.name: path.read_text() for path in EXAMPLES.glob("*.py") if path.name in files}
    assert named and all(files[name] == text for name, text in named.items())


def test_what_a_page_shows_has_to_be_printed():
    printed = "silo-0 │ 0123456789abcdef │ 1.9923\nit holds\n3 rounds"
    assert lines_not_printed("silo-0 fedcba9876543210 1.99\n...\n3 rounds", printed) == []
    for wrong in ("silo-0 fedcba9876543210 2.99", "it does not hold", "4 rounds", "it holds\nsilo-0 | 0123 | 1.9923"):
        assert lines_not_printed(wrong, printed)
