"""Killed with SIGKILL at random moments, a silo loses no event, computes nothing uncharged, charges nothing twice."""

import json
import subprocess
import sys
from pathlib import Path

import killed_spender
import pytest
from ledger_kit import KEY

from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.verification import verify_ledger


@pytest.mark.parametrize(("kills", "size"), [(12, 100_000), pytest.param(200, 2_000_000, marks=pytest.mark.soak)])
def test_nothing_is_lost_computed_uncharged_or_charged_twice(kills, size, tmp_path):
    command = [sys.executable, str(Path(killed_spender.__file__)), str(tmp_path), str(kills), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120 + 3 * kills, check=False)
    assert done.returncode == 0, done.stderr
    hit = json.loads((tmp_path / killed_spender.REPORT).read_text())
    assert hit["kills"] == kills
    # The moments were worth something: they hit the time between the charge and the bytes that it pays for.
    assert hit["charged, not settled"] >= kills / 12
    assert kills < 200 or hit["inside a transaction"] > 0

    ledger = Ledger.open(str(tmp_path / killed_spender.LEDGER), key=KEY, witness=tmp_path / killed_spender.WITNESS)
    verified = verify_ledger(ledger, public_key=KEY.public_key)
    bodies = [entry.body for entry in ledger.entries() if entry.kind == "release"]
    draws = [body.payload for body in bodies]
    assert verified.releases == len(draws) > kills / 4
    # Nothing was computed without its entry, and one draw left for each, whatever was computed anew after a kill.
    computed = {tuple(line) for line in killed_spender.lines(tmp_path / killed_spender.COMPUTED)}
    answers = {tuple(line) for line in killed_spender.lines(tmp_path / killed_spender.SENT)}
    assert {draw for draw, _ in computed} <= set(draws)
    assert {(draw, digest) for _, draw, digest in answers} <= computed
    assert len(answers) == len({number for number, _, _ in answers}) == len({draw for _, draw, _ in answers})
    # No event is lost and none is there twice: request n is release n, one entry each, whatever was killed.
    assert [body.event.round for body in bodies] == list(range(len(bodies)))
    assert len(draws) == len(set(draws)) == len({body.request for body in bodies})
    assert len(answers) >= len(draws) - 1, "only the last one may wait to be sent"
    assert ledger.spending().kinds[0].steps == len(draws)


def test_the_log_is_read_as_sqlite_writes_it(tmp_path):
    """The count of uncommitted frames that the report rests on: none after a commit, some without it."""
    ledger = killed_spender.created(tmp_path / killed_spender.LEDGER)
    reader = ledger._storage._engine.connect()
    killed_spender.Ledger.open(str(tmp_path / killed_spender.LEDGER), key=KEY).set_limit(3.0, reason="a test")
    assert killed_spender.uncommitted_frames(tmp_path) == 0
    log = tmp_path / (killed_spender.LEDGER + "-wal")
    content = log.read_bytes()
    reader.close()
    assert len(content) > 32
    page = int.from_bytes(content[8:12], "big")
    log.write_bytes(content[: -24 - page])
    assert killed_spender.uncommitted_frames(tmp_path) > 0
