"""A ledger or its export by address, and certificates against it: cut tails, false statements, foreign ones."""

from dataclasses import replace

import pytest
from runs_by_hand import charged, made_silo, release_of

from recsys_fed.certificates.certificate import read_certificate, sign_certificate
from recsys_fed.errors import DataNotFoundError, LedgerError
from recsys_fed.ledger.records import certify_run, export_ledger, export_lines
from recsys_fed.ledger.verification import _place, verification_record


@pytest.fixture
def silo(tmp_path):
    """A silo with two runs and a raised limit, and the certificates of both runs."""
    silo = made_silo(tmp_path, "north", epsilon=20.0)
    (tmp_path / "certificates").mkdir()
    for run, noise in (("1", 3.0), ("2", 2.0)):
        for number in range(3):
            charged(silo, release_of(noise, round=number), run=run)
        (tmp_path / "certificates" / f"{run}.json").write_bytes(certify_run(silo.ledger, silo.key, run=run, model=""))
        silo.ledger.set_limit(20.0 + int(run), reason="a decision of the board")
    charged(silo, release_of(9.0), run="3")
    return silo


@pytest.fixture
def exported(silo, tmp_path):
    """Its export: the path, and the lines."""
    path = tmp_path / "north.jsonl"
    export_ledger(silo.ledger, path)
    return path, path.read_bytes().splitlines(keepends=True)


def audited(address, tmp_path, **options):
    return verification_record(str(address), certificates=[tmp_path / "certificates"], **options)


def test_ledger_export_and_certificates_agree(silo, exported, tmp_path):
    stored, from_lines = audited(silo.path, tmp_path), audited(exported[0], tmp_path)
    assert stored["holds"], stored["problem"]
    assert stored | {"ledger": ""} == from_lines | {"ledger": ""}
    assert (stored["entries"], stored["releases"], stored["spending"]["epsilon_limit"]) == (10, 7, 22.0)
    assert len(stored["certificates_checked"]) == 2
    entries = list(silo.ledger.entries())
    assert (stored["first"], stored["last"]) == (entries[0].time, entries[-1].time)
    assert stored["head"] == {"number": 9, "hash": entries[-1].hash}
    assert stored["terms"] == silo.ledger.terms().to_record()


def test_what_is_said_of_a_database_has_no_password():
    assert _place("postgresql://silo:secret@host/name") == "postgresql+psycopg://silo:***@host/name"
    assert _place("north.jsonl") == "north.jsonl"


def test_lines_are_those_of_the_entries(silo):
    assert list(export_lines(silo.ledger)) == [entry.line() + b"\n" for entry in silo.ledger.entries()]


def test_an_export_never_overwrites(silo, exported):
    with pytest.raises(ValueError, match="There is a file"):
        export_ledger(silo.ledger, exported[0])
    with pytest.raises(LedgerError, match="Cannot write the export"):
        export_ledger(silo.ledger, exported[0].parent / "nowhere" / "x.jsonl")
    assert not list(exported[0].parent.glob("*.part"))


def test_a_cut_tail_is_found_with_certificates_and_only_with_them(exported, tmp_path):
    path, lines = exported
    path.write_bytes(b"".join(lines[:7]))
    assert verification_record(str(path))["holds"]
    found = audited(path, tmp_path)
    assert not found["holds"]
    assert "its tail was cut off" in found["problem"]
    # What comes after the newest certificate nobody has seen.
    path.write_bytes(b"".join(lines[:8]))
    assert audited(path, tmp_path)["holds"]


def test_the_first_bad_entry_of_a_ledger_is_named_though_its_last_one_is_bad_too(exported, tmp_path):
    path, lines = exported
    lines[3] = lines[3].replace(b'"round":2', b'"round":3')
    lines[-1] = lines[-1].replace(b'"round":0', b'"round":1')
    path.write_bytes(b"".join(lines))
    found = audited(path, tmp_path)
    assert not found["holds"]
    assert "entry 3" in found["problem"]


STATEMENTS = {
    "limit": ({"terms": lambda c: c.terms.with_limit(99.0)}, "the ledger's at entry 3"),
    "fewer releases": ({"releases": lambda c: c.releases[:-1]}, "entry 3 differs"),
    "less noise": (
        {"releases": lambda c: (replace(c.releases[0], event=release_of(8.0)), *c.releases[1:])}, "entry 1 differs"
    ),
    "epsilon of the run": ({"epsilon_of_run": lambda c: {**c.epsilon_of_run, "prv": 0.1}}, "epsilon of the run"),
    "epsilon in all": ({"epsilon_in_all": lambda c: {**c.epsilon_in_all, "rdp": 0.1}}, "epsilon in all"),
    "another head": ({"head": lambda c: replace(c.head, hash="0" * 64)}, "certificates that agree|certificate names"),
    "a later head": ({"head": lambda c: replace(c.head, number=99)}, "its tail was cut off"),
    "another run": ({"run": lambda c: "2"}, "of run 2"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "named"), STATEMENTS.values(), ids=STATEMENTS)
def test_a_certificate_that_says_something_else_than_the_ledger_is_found(silo, tmp_path, changes, named):
    path = tmp_path / "certificates" / "1.json"
    certificate = read_certificate(path.read_bytes())
    changed = replace(certificate, **{name: change(certificate) for name, change in changes.items()})
    path.write_bytes(sign_certificate(changed, silo.key))
    found = audited(silo.path, tmp_path)
    assert not found["holds"]
    assert any(part in found["problem"] for part in named.split("|")), found["problem"]


def test_certificates_of_others_are_left_alone_but_not_if_there_is_no_own_one(silo, tmp_path):
    other = made_silo(tmp_path, "south")
    charged(other, release_of(3.0), run="1")
    (tmp_path / "certificates" / "0.json").write_bytes(certify_run(other.ledger, other.key, run="1", model=""))
    assert len(audited(silo.path, tmp_path)["certificates_checked"]) == 2
    foreign = verification_record(silo.path, certificates=[tmp_path / "certificates" / "0.json"])
    assert not foreign["holds"]
    assert "Expected a certificate of the ledger's key" in foreign["problem"]


def test_an_unsigned_certificate_is_refused(silo, tmp_path):
    path = tmp_path / "certificates" / "1.json"
    path.write_bytes(path.read_bytes().replace(b'"run":"1"', b'"run":"8"'))
    assert "is not signed by its key" in audited(silo.path, tmp_path)["problem"]


def test_the_key_that_is_expected_must_be_the_ledgers(silo, tmp_path):
    assert audited(silo.path, tmp_path, public_key=silo.key.public_key.upper())["holds"]
    found = audited(silo.path, tmp_path, public_key="0" * 64)
    assert "Expected the ledger of the key 0000" in found["problem"]


def test_what_is_not_there_is_no_finding(tmp_path, silo):
    for missing in ("nowhere.sqlite", "nowhere.jsonl"):
        with pytest.raises(DataNotFoundError):
            verification_record(str(tmp_path / missing))
    with pytest.raises(DataNotFoundError, match="Expected certificates"):
        verification_record(silo.path, certificates=[tmp_path / "nothing"])


def test_a_certificate_stays_true_while_the_ledger_grows(silo, tmp_path):
    before = certify_run(silo.ledger, silo.key, run="2", model="")
    charged(silo, release_of(4.0, round=2), run="2")
    silo.ledger.set_limit(30.0, reason="more")
    (tmp_path / "certificates" / "again.json").write_bytes(before)
    assert audited(silo.path, tmp_path)["holds"]


def test_a_certificate_is_true_though_another_run_writes_while_it_is_made(silo, tmp_path, monkeypatch):
    head = silo.ledger.head()

    def head_before_others_write():
        for run in ("2", "4"):
            charged(silo, release_of(4.0, round=2), run=run)
        silo.ledger.set_limit(30.0, reason="more")
        return head

    monkeypatch.setattr(silo.ledger, "head", head_before_others_write)
    (tmp_path / "certificates" / "again.json").write_bytes(certify_run(silo.ledger, silo.key, run="2", model=""))
    found = audited(silo.path, tmp_path)
    assert found["holds"], found["problem"]
