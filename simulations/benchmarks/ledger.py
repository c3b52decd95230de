"""A ledger of 100,000 entries: what status and verify take on one core, and that memory does not grow with it.

Each is measured in a process of its own, in processor time of its one thread, without the start of Python.
"""

import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from recsys_fed.certificates.terms import LedgerTerms
from recsys_fed.ledger.entries import Entry, Release, utc_text
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.storage import Storage, entries_table
from recsys_fed.ledger.transactions import row_of
from recsys_fed.privacy.events import ReleaseEvent
from recsys_fed.privacy.guarantee import Guarantee
from recsys_fed.signing import SigningKey, sha256
from simulations.benchmarks.line import Line

FEW, MANY = 10_000, 100_000
STATUS_SECONDS, VERIFY_SECONDS, GROWTH_MB = 1.0, 30.0, 5.0
TIMEOUT = 300.0
_PAGE = 5_000
_RELEASES_A_RUN = 20
_START = datetime(2026, 1, 1, tzinfo=UTC)
_MEASURE = """
import json, resource, sys, time
from pathlib import Path
from recsys_fed.ledger.verification import audit
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.records import status_record
from recsys_fed.privacy.accounting import epsilon_of_history
from recsys_fed.privacy.events import PrivacyEvent
path, question = sys.argv[1:]
STATUS = Path("/proc/self/status")
def peak_mb():
    if STATUS.is_file():
        return int(STATUS.read_text().split("VmHWM:")[1].split()[0]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
epsilon_of_history([PrivacyEvent(noise_multiplier=1.0)], delta=1e-6)
if STATUS.is_file():
    # From here on the peak is that of the question, not that of the imports.
    Path("/proc/self/clear_refs").write_text("5")
start = time.process_time()
if question == "status":
    found = status_record(Ledger.open(path))["releases"]
else:
    found = audit(path).releases
seconds = time.process_time() - start
peak = peak_mb()
print(json.dumps({"releases": found, "seconds": seconds, "peak_mb": peak}))
"""


def ledger_lines() -> list[Line]:
    """Seconds of status and verify, and what ten times as many entries add to the peak memory of verify."""
    with tempfile.TemporaryDirectory(prefix="recsys-fed-") as folder:
        few, many = (make_ledger(Path(folder) / f"{entries}.sqlite", entries) for entries in (FEW, MANY))
        status, verify = measured(many, "status"), measured(many, "verify")
        growth = verify["peak_mb"] - measured(few, "verify")["peak_mb"]
    named = f"ledger of {MANY:,} entries"
    return [
        Line(name=f"{named}: status, processor time", value=status["seconds"], unit="s", bar=STATUS_SECONDS),
        Line(name=f"{named}: verify, processor time", value=verify["seconds"], unit="s", bar=VERIFY_SECONDS),
        Line(name=f"verify: peak memory beyond that of {FEW:,} entries", value=growth, unit="MB", bar=GROWTH_MB),
    ]


def make_ledger(path: Path, entries: int) -> Path:
    """A ledger of so many entries with signatures that hold, written a page at a time."""
    key = SigningKey.generate()
    terms = LedgerTerms(
        silo="benchmark",
        public_key=key.public_key,
        guarantee=Guarantee(epsilon=float("inf")),
        declared_users=1_000,
        simulated=True,
    )
    ledger = Ledger.create(str(path), key=key, terms=terms, clock=lambda: _START, durable=False)
    last, storage = ledger.entry(0), Storage(str(path), durable=False)
    for first in range(1, entries, _PAGE):
        rows = []
        for number in range(first, min(first + _PAGE, entries)):
            last = _next(last, number).signed(key)
            rows.append(row_of(last))
        with storage.writing() as connection:
            connection.execute(entries_table.insert(), rows)
    storage.close()
    ledger.close()
    return path


def measured(path: Path, question: str) -> dict[str, float]:
    """Releases, processor seconds and peak memory of one question, in a process of its own."""
    command = [sys.executable, "-c", _MEASURE, str(path), question]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _next(last: Entry, number: int) -> Entry:
    event = ReleaseEvent(
        noise_multiplier=40.0 + number % 3,
        released="item embeddings",
        l2_clip_norm=1.0,
        round=number % _RELEASES_A_RUN,
        stage="subspace",
        noise_source="seeded-simulation",
        trainer="spectral",
    )
    digest = sha256(str(number).encode())
    run = str(number // _RELEASES_A_RUN)
    return Entry(
        number=number,
        time=utc_text(_START + timedelta(seconds=number)),
        previous=last.hash,
        kind="release",
        body=Release(event=event, run=run, request=digest, payload=digest, code_version="0.1.0"),
    )
