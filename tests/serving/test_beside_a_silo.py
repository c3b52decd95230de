"""Beside a silo that takes part in training: its newest model is served, the service's log is its data."""

import asyncio
import shutil

import numpy as np
import torch
from scipy import sparse
from serving_kit import made_service

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.models.histories import histories_of
from recsys_fed.models.items import FoldIn, ItemEmbeddings, item_embeddings_bytes
from recsys_fed.serving import reload
from recsys_fed.serving.history import Event
from recsys_fed.serving.packing import pack
from recsys_fed.serving.reload import ModelReloader, ModelSource
from recsys_fed.serving.versions import point_to
from recsys_fed.silo.interactions import read_silo_data
from recsys_fed.silo.secret import Pseudonyms, SiloSecret
from recsys_fed.silo.settings import DataSettings
from recsys_fed.silo.state import StateFolder

CATALOGUE = Catalogue(item_ids=np.array([f"i{row}" for row in range(60)], dtype=object))


def model(seed):
    generator = torch.Generator().manual_seed(seed)
    return ItemEmbeddings(
        vectors=torch.randn(60, 4, generator=generator),
        bias=torch.randn(60, generator=generator),
        history_weights=torch.ones(60),
        fold_in=FoldIn(kind="ridge"),
        catalogue_hash=CATALOGUE.content_hash,
    )


def test_the_next_training_reads_the_services_log_under_pseudonyms(tmp_path):
    service = made_service(tmp_path / "service")
    events = [("ann", "i1", "buy"), ("ann", "i2", "view"), ("bob", "i3", "like"), ("bob", "i4", "rating")]
    for number, (user, item, kind) in enumerate(events):
        service.writer.append(Event(user=user, item=item, kind=kind, time=1.7e9 + number, key=str(number))).result()
    service.close()
    pseudonyms = Pseudonyms(SiloSecret.generate())
    data = DataSettings(
        source="sqlite",
        url=str(tmp_path / "service" / "feedback.sqlite"),
        query='SELECT "user", item, value, time FROM training_interactions',
        value="value",
        time="time",
    )
    found = read_silo_data(data, CATALOGUE, pseudonyms)
    rows = {user: row for row, user in enumerate(found.users.tolist())}
    assert set(rows) == {pseudonyms.of("ann"), pseudonyms.of("bob")}
    assert found.train[rows[pseudonyms.of("ann")]].indices.tolist() == [1]
    assert sorted(found.train[rows[pseudonyms.of("bob")]].indices.tolist()) == [3, 4]


def test_a_newly_trained_model_of_the_silo_is_taken_over_and_a_rolled_back_one_stays_away(tmp_path, monkeypatch):
    catalogue, folder = tmp_path / "catalogue.parquet", tmp_path / "service"
    CATALOGUE.save(catalogue)
    state, nobody = StateFolder(tmp_path / "state", SiloSecret.generate()), np.zeros(0, dtype=object)
    empty = sparse.csr_matrix((0, 60), dtype=np.float32)
    first = state.keep(item_embeddings_bytes(model(1)), [(nobody, histories_of(empty))])
    source = ModelSource(place=tmp_path / "state", catalogue=catalogue)
    assert pack(source.model, catalogue, folder) == first
    point_to(folder, first)
    service = made_service(folder)
    taking, packed, pack_apart = ModelReloader(service, folder, source), [], reload._pack_in_subprocess

    async def counted(*arguments):
        packed.append(arguments)
        return await pack_apart(*arguments)

    monkeypatch.setattr(reload, "_pack_in_subprocess", counted)

    async def scenario():
        service.background.start("model watcher", taking.look, every=0.05)
        second = state.keep(item_embeddings_bytes(model(2)), [(nobody, histories_of(empty))])
        await until(lambda: service.versions.current.release.version == second)
        service.use(service.versions.before())
        # The same file again, with another date: it was rolled back, and is not taken over by itself.
        shutil.copy(source.model, tmp_path / "copy")
        shutil.copy(tmp_path / "copy", source.model)
        await asyncio.sleep(0.5)
        assert service.versions.current.release.version == first
        assert len(packed) == 1
        source.model.write_bytes(b"no model")
        await until(lambda: taking.problem)
        assert service.versions.current.release.version == first
        assert str(tmp_path) not in taking.problem
        await service.background.stop()

    asyncio.run(scenario())
    service.close()


async def until(holds):
    for _ in range(1_200):
        if holds():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come to hold within a minute")
