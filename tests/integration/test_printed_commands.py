"""The commands of docs/deployment.md from nothing to a model, run as they are printed, on loopback."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from deployment_kit import Deployed
from real_federation import RealFederation, wait_for

from recsys_fed.deployment.federation import FederationFolder
from recsys_fed.deployment.roster import missing_silos
from recsys_fed.deployment.training import _last_training, progress_of
from recsys_fed.flower import free_port

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "deployment.md"
SILOS = ("north", "south", "west")


def printed() -> list[list[str]]:
    """The commands of the section "All of it", as words."""
    section = re.search(r"^## All of it\n(.*?)^## ", GUIDE.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for line in re.findall(r"^    (recsys-fed .*)$", section[1], flags=re.MULTILINE)]


def made_tables(folder: Path) -> None:
    rng = np.random.default_rng(3)
    items = [f"sku-{number}" for number in range(60)]
    pd.DataFrame({"sku": items, "name": items, "section": ["a", "b"] * 30}).to_csv(
        folder / "products.csv", index=False
    )
    for name in SILOS:
        rows = [(f"{name}-{user}", item) for user in range(80) for item in rng.choice(items, 12, replace=False)]
        table = pd.DataFrame(rows, columns=["customer", "sku"])
        table.assign(bought_at=1_700_000_000 + np.arange(len(table))).to_csv(folder / f"{name}.csv", index=False)


def test_there_are_at_most_fourteen_of_them():
    assert 10 <= len(printed()) <= 14


def at(word: str, root: Path, port: int) -> str:
    """Only the places are of this machine."""
    places = {"/srv": str(root), "fed.example.org:9092": f"127.0.0.1:{port}", "0.0.0.0": "127.0.0.1"}  # noqa: S104
    for printed_place, place in places.items():
        word = word.replace(printed_place, place)
    return word


def run(federation, words):
    """A command to its end; what serves goes on, and the training waits until all do."""
    folder = federation.there.federation
    if "serve" in words:
        name = "-".join((*words[:2], Path(words[2]).name))
        started = federation.start(name, *words)
        if words[0] == "federation":
            wait_for((folder.flower_home / "nodes.json").is_file, started)
        return
    if "train" in words:
        wait_for(lambda: not missing_silos(folder), federation.process("federation-serve-federation"))
    done = federation.command(*words, timeout=1200)
    assert done.returncode == 0, f"{words}: {done.stderr}\n{federation.logs()}"


@pytest.mark.soak
def test_they_lead_to_a_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made_tables(tmp_path)
    port, root = free_port(), tmp_path / "srv"
    root.mkdir()
    folder = FederationFolder(root / "federation")
    there = Deployed(federation=folder, silos=[root / name for name in SILOS], simulated=None)
    federation = RealFederation(there, tmp_path / "logs")
    try:
        for words in printed():
            run(federation, [at(word, root, port) for word in words[1:]])
        assert progress_of(_last_training(folder))["complete"]
    finally:
        federation.stop()
