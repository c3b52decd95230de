"""`federation check` finds each thing that is wrong, before silos wait for it."""

import json
import shutil
import socket
from collections import namedtuple
from datetime import UTC, datetime, timedelta

import pytest
from deployment_kit import SILOS, deployed
from typer.testing import CliRunner

from recsys_fed.cli import app
from recsys_fed.deployment import checking
from recsys_fed.deployment.checking import check_federation
from recsys_fed.deployment.federation import split_address
from recsys_fed.deployment.roster import revoke
from recsys_fed.flower import free_port


@pytest.fixture
def federation(tmp_path):
    return deployed(tmp_path, port=free_port()).federation


def findings(federation):
    return {finding.name: finding for finding in check_federation(federation)}


def bad(federation):
    return {name: finding.detail for name, finding in findings(federation).items() if not finding.good}


def test_a_good_federation_is_good(federation):
    assert not bad(federation)
    assert f"{SILOS} are admitted" in findings(federation)["silos"].detail
    assert "does not serve" in findings(federation)["server"].detail
    found = CliRunner().invoke(app, ["federation", "check", str(federation.path), "--json"])
    assert found.exit_code == 0
    assert [finding["name"] for finding in json.loads(found.output)] == [
        "settings", "certificates", "public folder", "silos", "server", "disk",
    ]  # fmt: skip


def test_an_authority_that_is_kept_elsewhere_is_no_fault(federation):
    federation.authority_key.unlink()
    assert "kept elsewhere" in findings(federation)["certificates"].detail
    assert not bad(federation)


def test_each_fault_is_found(federation, monkeypatch):
    text = federation.settings_file.read_text()
    federation.settings_file.write_text(text.replace("[federation]", "[federation]\nmisspelled = 1"))
    assert list(bad(federation)) == ["settings"]
    federation.settings_file.write_text(text.replace("rounds = 3", "rounds = 4"))
    assert "differ in rounds" in bad(federation)["public folder"]
    federation.settings_file.write_text(text)
    (federation.public / "catalogue.parquet").rename(federation.path / "elsewhere")
    assert list(bad(federation)) == ["public folder"]
    (federation.path / "elsewhere").rename(federation.public / "catalogue.parquet")
    (federation.public / "roster.json").write_bytes(b"{}")
    assert list(bad(federation)) == ["silos"]
    revoke(federation, "silo-0")
    assert "2 silos are admitted, the terms are for 3" in bad(federation)["silos"]
    usage = namedtuple("usage", "total used free")(1, 1, 1_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert "0.0 GB are free" in bad(federation)["disk"]


def test_a_port_of_another_program_and_a_certificate_that_ends_are_found(federation, monkeypatch):
    with socket.create_server(("127.0.0.1", split_address(federation.settings().address)[1])):
        assert "to be free" in bad(federation)["server"]
    soon = datetime.now(UTC) + timedelta(days=3)
    monkeypatch.setattr(checking, "expiry", lambda _: soon)
    assert "renew-certificate" in bad(federation)["certificates"]
    found = CliRunner().invoke(app, ["federation", "check", str(federation.path)])
    assert found.exit_code == 1
    assert "BAD" in found.output
