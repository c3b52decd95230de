"""Folders as a version of this project wrote them, for test_older_folders.py: generated data only.

Run in a checkout of that version, with its own code and tests in the path:

    git worktree add /tmp/older e3da319 && cd /tmp/older
    PYTHONPATH=.:tests:tests/simulation:tests/serving python ARCHIVER/make_folders.py /tmp/made
    tar --directory /tmp/made --sort=name --owner=0 --group=0 --mtime=2026-01-01 -cJf e3da319.tar.xz .
"""

import os
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pandas as pd
from deployment_kit import CONFIG, deployed, train_in_process

from recsys_fed.federation.inprocess import InProcessGrid
from recsys_fed.serving.history import Event
from recsys_fed.serving.importing import import_interactions
from recsys_fed.serving.paths import TokenFile

PLAIN = replace(CONFIG, secure_aggregation="off", minimum_silos=1)
# Messages of a training are pushed in batches: greeting, three rounds, conclusion.
FIRST_OF_LAST_ROUND = 3


class Crash(BaseException):
    """The server is gone."""


class CrashingGrid(InProcessGrid):
    """Ends the server before its last round."""

    pushed = 0

    def push_messages(self, messages):
        if type(self).pushed == FIRST_OF_LAST_ROUND:
            raise Crash
        type(self).pushed += 1
        return super().push_messages(messages)


def main(root: Path) -> None:
    """Write runs, a federation with its silos, and a service."""
    from serving_kit import made_service
    from small_run import small_run

    root.mkdir(parents=True)
    os.chdir(root)
    for noise in ("own", "central"):
        small_run(Path(f"run-{noise}"), seed=5, epsilon=4.0, noise=noise, ledgers=f"ledgers-{noise}")
    there = deployed(Path("deployment"), config=PLAIN, simulated=True)
    train_in_process(there, Path("deployment/whole"), config=PLAIN, training="whole")
    with suppress(Crash):
        train_in_process(there, Path("deployment/interrupted"), config=PLAIN, grid=CrashingGrid, training="again")
    service = made_service(Path("service"))
    table = pd.DataFrame({"user": ["a", "a", "b"], "item": ["i1", "i2", "i2"], "time": [5, 6, 7]})
    table.to_csv("interactions.csv", index=False)
    import_interactions(Path("interactions.csv"), service.store)
    for number, (user, item, kind) in enumerate([("a", "i5", "buy"), ("b", "i7", "like"), ("c", "i8", "view")]):
        event = Event(user=user, item=item, kind=kind, time=1e9 + number, key=f"k{number}", accepted=True)
        service.writer.append(event).result()
    service.close()
    Path("token").write_text(TokenFile(Path("service/tokens.json")).create("operator", ["recommend"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
