"""Whichever write of a training fails, once or from then on: nothing is lost, nothing is paid twice, and it is said.

A training of three silos, masked or not, whose server and silos write below one folder. After the disk is well again
the training goes on as its operators would let it; the model, the ledgers and the silos' state are then those of a
training that nobody disturbed.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from deployment_kit import CONFIG, SILOS, Deployed, deployed, train_in_process
from failing_disk import FULL, ONCE, UNHEARD, FailingDisk, failing

import server.app
from client.deployed import forget_silos, open_deployed_silo
from recsys_fed.certificates.run import verify_run
from recsys_fed.deployment.federation import FederationFolder
from recsys_fed.federation.run_files import CERTIFICATES, EMBEDDINGS, EVENTS, FEDERATION
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.verification import verify_ledger

ROUNDS = 2
# Silos agree to 6, which leaves room for a masked round that is done again.
CONFIGS = {
    mode: replace(CONFIG, rounds=ROUNDS, minimum_silos=SILOS, secure_aggregation=mode) for mode in ("off", "on")
}
ASKED = {mode: replace(config, epsilon=3.0) for mode, config in CONFIGS.items()}
# In `make test`: of each kind of file and each kind of failure some, the others in the soak.
ALWAYS = {("off", ONCE): (25, 150), ("off", UNHEARD): (3,), ("on", FULL): (40,)}


@dataclass(frozen=True, kw_only=True)
class Whole:
    """Folders before any training, and what an undisturbed one brings."""

    before: Path
    model: bytes
    vectors: list[np.ndarray]


@pytest.fixture(autouse=True)
def _opened_anew(monkeypatch) -> Iterator[None]:
    # Nobody comes back while a round waits: the disk is mended between two attempts of the operator.
    monkeypatch.setattr(server.app, "patience", lambda _: 0.0)
    forget_silos()
    yield
    forget_silos()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, Whole]:
    found = {}
    for mode, config in CONFIGS.items():
        before = tmp_path_factory.mktemp(f"masked {mode}") / "before"
        deployed(before, config=config, simulated=True)
        there = copied(before, before.parent / "whole")
        train(there, mode)
        found[mode] = Whole(before=before, model=model(there), vectors=states(there))
        forget_silos()
    return found


def copied(before: Path, to: Path) -> Deployed:
    shutil.copytree(before, to)
    (to / "training").mkdir()
    silos = [to / f"silo-{index}" for index in range(SILOS)]
    return Deployed(federation=FederationFolder(to / "federation"), silos=silos, simulated=None)


def train(there: Deployed, mode: str, **more: object) -> None:
    train_in_process(there, output_of(there), config=ASKED[mode], **more)


def output_of(there: Deployed) -> Path:
    return there.federation.path.parent / "training" / "output"


def model(there: Deployed) -> bytes:
    return (output_of(there) / EMBEDDINGS).read_bytes()


def states(there: Deployed) -> list[np.ndarray]:
    return [open_deployed_silo(silo).state.users().vectors.numpy() for silo in there.silos]


def go_on(there: Deployed, mode: str) -> None:
    """What operators do once the disk is well again: the silos are started, the training is resumed."""
    forget_silos()
    for silo in there.silos:
        open_deployed_silo(silo).keep_waiting()
    totals = output_of(there) / FEDERATION
    if not (output_of(there) / EMBEDDINGS).is_file() or json.loads(totals.read_text())["certificates_missing"]:
        train(there, mode, resume=True)


def disturbed(there: Deployed, mode: str, disk: FailingDisk, caplog) -> str:
    """The training on a disk that fails; all that operators are told."""
    caplog.clear()
    told = ""
    with caplog.at_level(logging.WARNING, logger="flwr"), failing(disk):
        try:
            train(there, mode)
        except Exception as error:  # noqa: BLE001
            told = f"{type(error).__name__}: {error}\n"
    return told + caplog.text


def check(whole: Whole, folder: Path, mode: str, how: str, number: int, caplog) -> bool:
    """One write that fails; False where the training has no such write."""
    there = copied(whole.before, folder)
    disk = FailingDisk(folder, number=number, how=how)
    told = disturbed(there, mode, disk, caplog)
    if not disk.failed:
        return False
    what, path = disk.failed[0]
    case = f"{mode}, {how}, {number}: {what} {path}\n{told}"
    if not told:
        # Nothing but a log, which stops nothing.
        assert (output_of(there) / EMBEDDINGS).is_file(), case
    assert not told or path in told or named(Path(path)) in told, f"which file: {case}"
    assert not told or any(
        text in told for text in ("No space left", "Input/output error", "disk is full", "disk I/O")
    ), case
    go_on(there, mode)
    charges = [ledger_of(silo) for silo in there.silos]
    again = sum(charges) - SILOS * ROUNDS
    # A masked round that comes to nothing is paid for, at most once for each silo; any other release is paid once.
    assert 0 <= again <= (SILOS if mode == "on" else 0), case
    if not again:
        assert model(there) == whole.model, case
        for found, expected in zip(states(there), whole.vectors, strict=True):
            np.testing.assert_array_equal(found, expected, err_msg=case)
    output = output_of(there)
    found = verify_run(output / CERTIFICATES, events=output / EVENTS, model=output / EMBEDDINGS)
    assert found.holds, (case, found.problems)
    assert len(found.certificates) == SILOS, case
    assert len(states(there)) == SILOS
    assert not list(folder.rglob("*.part")), case
    shutil.rmtree(folder)
    return True


def named(path: Path) -> str:
    """How a file is named while it is not whole yet: by what it is to become."""
    return str(path.parent / path.name.lstrip(".").split(".")[0])


def ledger_of(silo: Path) -> int:
    ledger = Ledger.open(str(silo / "ledger.sqlite"), witness=silo / "ledger.witness")
    assert verify_ledger(ledger).terms.silo == silo.name
    return ledger.releases()


@pytest.mark.parametrize(("mode", "how"), ALWAYS)
def test_some_writes(mode, how, undisturbed, tmp_path, caplog):
    for number in ALWAYS[mode, how]:
        assert check(undisturbed[mode], tmp_path / f"{number}", mode, how, number, caplog)


@pytest.mark.soak
@pytest.mark.parametrize("how", [ONCE, FULL, UNHEARD])
@pytest.mark.parametrize("mode", CONFIGS)
def test_every_write(mode, how, undisturbed, tmp_path, caplog):
    last = 0
    while check(undisturbed[mode], tmp_path / f"{last + 1}", mode, how, last + 1, caplog):
        last += 1
    assert last >= (10 if how == UNHEARD else 200), "of 200 writes and more, 10 and more commits, each has failed"
