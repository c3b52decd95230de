"""The table of what modules are worth: what is measured is kept, and each column is what it says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys_fed.models.items import FoldIn, ItemEmbeddings, TrainedModule, save_item_embeddings
from simulations.modules import __main__ as command
from simulations.modules import measure

N_USERS, N_ITEMS = 200, 30


@pytest.fixture
def data(tmp_path: Path) -> str:
    """A split as UltraGCN's: users like one half of the items."""
    rng = np.random.default_rng(0)
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for user in range(N_USERS):
        liked = rng.permutation(N_ITEMS // 2)[:9] + (user % 2) * N_ITEMS // 2
        for name, items in (("train", liked[:7]), ("test", liked[7:])):
            lines[name].append(" ".join(map(str, [user, *items])))
    folder = tmp_path / "split"
    folder.mkdir()
    for name, rows in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(rows) + "\n")
    return str(folder)


def test_what_was_measured_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[str] = []
    stop_at = ["in_silos neumf-inf"]

    def gives(what: str, columns: tuple[str, ...]):  # type: ignore[no-untyped-def]
        def work(line: measure.Federated, **_settings: object) -> measure.Json:
            if f"{what} {line.name}" in stop_at:
                raise KeyboardInterrupt
            measured.append(f"{what} {line.name}")
            return {name: [0.25, 0.125] for name in columns} | {"taken": ["local-only"], "seconds": 1.0}

        return work

    for what, columns in (
        ("federate", (measure.FEDERATED,)), ("in_silos", measure.IN_SILOS), ("alone", measure.ALONE)
    ):  # fmt: skip
        monkeypatch.setattr(command, what, gives(what, columns))
    arguments = ["--data", "there", "--modules", "mf,neumf", "--kept", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        command.main(arguments)
    before = list(measured)
    assert before == [
        "federate mf-8", "in_silos mf-8", "alone mf-8", "federate neumf-8", "in_silos neumf-8", "alone neumf-8",
        "federate mf-inf", "in_silos mf-inf", "federate neumf-inf",
    ]  # fmt: skip
    stop_at.clear()
    command.main(arguments)
    assert measured[len(before) :] == ["in_silos neumf-inf"]
    lines = [line for line in capsys.readouterr().out.splitlines() if ".250 / .125" in line]
    assert [line.split(" | ")[:2] for line in lines[-4:]] == [
        ["| mf", "8"], ["| neumf", "8"], ["| mf", "inf"], ["| neumf", "inf"]
    ]  # fmt: skip
    assert all(line.endswith("| local-only | 3 |") for line in lines)


def test_the_columns_of_silos(data: str, tmp_path: Path) -> None:
    """A table that tells the halves apart serves well; one of noise does not, and the silo's own module does."""
    line = measure.Federated(data=data, module="autoencoder", epsilon=8.0, rounds=2)
    found = {}
    half = torch.where(torch.arange(N_ITEMS) < N_ITEMS // 2, 1.0, -1.0)[:, None]
    noise = torch.randn(N_ITEMS, 3, generator=torch.Generator().manual_seed(0))
    for name, vectors in (("good", torch.cat([half, torch.zeros(N_ITEMS, 2)], 1)), ("noise", noise)):
        model = ItemEmbeddings(
            vectors=vectors, bias=torch.zeros(N_ITEMS), history_weights=torch.ones(N_ITEMS),
            fold_in=FoldIn(kind="projection"), catalogue_hash="c",
            module=TrainedModule(name="autoencoder", dim=3, item_table="items.weight", loss="bce", bias_scale=0.0),
        )  # fmt: skip
        path = tmp_path / f"{name}.safetensors"
        save_item_embeddings(model, path)
        found[name] = measure.in_silos(line, model=path, n_silos=1)
    alone = measure.alone(line, model=path, n_silos=1)
    ndcg = {
        name: {column: value[1] for column, value in one.items() if column in measure.IN_SILOS}
        for name, one in found.items()
    }
    for column in ("as served", "public start", "fitted"):
        assert ndcg["good"][column] > ndcg["noise"][column] + 0.1
    assert alone["module"][1] > ndcg["noise"]["as served"] + 0.1
    assert json.dumps(found)
    assert len(found["good"]["taken"]) == 1
