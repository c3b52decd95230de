"""`--help` of every command at 80 columns: nothing is cut, and everything that may be given is explained."""

import re

import click
import pytest
import typer
from command_line import run_command

from recsys_fed import cli


def commands(command=None, path=()):
    """Every command and group with the words that lead to it."""
    command = command or typer.main.get_command(cli.app)
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


TREE = list(commands())


def test_the_whole_tree_is_walked():
    paths = {path for path, _ in TREE}
    assert {(), ("simulate",), ("privacy", "verify-run"), ("silo", "token", "create")} <= paths


@pytest.mark.parametrize(("path", "command"), TREE, ids=lambda value: " ".join(value) if type(value) is tuple else "")
def test_help_at_80_columns_is_whole(path, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run_command(*path, "--help")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out and out.isascii()
    said = " ".join(out.split())
    for param in command.params:
        assert (param.help or "").strip(), f"{param.name} has no help text"
        assert " ".join(param.help.split()) in said
        names = [param.make_metavar(click.Context(command))] if param.param_type_name == "argument" else param.opts
        for name in (*names, *param.secondary_opts):
            assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", out), f"{name} is cut"
    for name, inner in getattr(command, "commands", {}).items():
        assert re.search(rf"^  {name}  ", out, re.MULTILINE)
        assert inner.help


def test_the_version_is_told():
    code, said, _ = run_command("--version")
    assert code == 0
    assert dict(line.split() for line in said.splitlines()).keys() >= {"recsys-fed", "flwr", "torch", "opacus"}
