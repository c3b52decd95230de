"""The wire test: every message of whole runs, decoded; only known records, and no user in any of them."""

import json
from collections.abc import Iterator
from dataclasses import fields

import numpy as np
import pytest
import torch
from flwr.app import Message
from recorded_runs import recorded_run, write_table

from recsys_fed.certificates.certificate import Certificate, read_certificate
from recsys_fed.config import SimulationConfig
from recsys_fed.data.simulated import simulated_federation
from recsys_fed.federation.kept_releases import RELEASES
from recsys_fed.federation.messages import PLAN, PROTOCOL, Greeting, Request
from recsys_fed.models.histories import histories_of
from recsys_fed.models.items import load_item_embeddings, user_vectors
from recsys_fed.models.torch_modules import MODULES
from recsys_fed.privacy.events import ReleaseEvent
from recsys_fed.signing import sha256

N_ITEMS, N_SILOS, SEED = 61, 3, 0
# User 5 is called 910005.
FIRST_ID, PREFIX = 910_000, "91000"
RUNS = {
    "spectral": {"trainer": "spectral", "rounds": 4, "embedding_dim": 8},
    "spectral, distributed": {"trainer": "spectral", "noise": "distributed", "embedding_dim": 8},
    "dp-sgd": {"trainer": "dp-sgd", "rounds": 4, "embedding_dim": 8},
    "dp-sgd, local steps": {"trainer": "dp-sgd", "rounds": 3, "embedding_dim": 8, "dp_sgd": {"schedule": "local"}},
    **{name: {"trainer": "torch", "rounds": 3, "trainer_settings": json.dumps({"module": name})} for name in MODULES},
}
# Columns of the table that each module shares, at the default of 16.
COLUMNS = {name: 17 if name == "mf" else 16 for name in MODULES}
MODEL = {"vectors", "bias", "history_weights"}
TABLES = {"head", "damping", "direction", "subspace"} | MODEL
FOLD_IN = {"unobserved_weight", "regularization", "ridge"}
SETTINGS = FOLD_IN | {"learning_rate", "expected_batch_size", "negatives_key", "count_share", "embedding_dim"}
PLAIN = {f.name for f in fields(Request)} - {"tables", "settings", "shape"}
REQUEST_KEYS = PLAIN | {"protocol", "rows", "columns"} | {f"settings.{name}" for name in SETTINGS}
UPDATE_KEYS = {f.name for f in fields(ReleaseEvent)} | {"protocol", "silo", "catalogue_hash", "nonce"}
GREETING_KEYS = {f.name for f in fields(Greeting)} | {"protocol"}
# A rule of what users count is there where the federation has one.
CERTIFICATE_KEYS = {f.name for f in fields(Certificate)} - {"user_weights"} | {"version"}


@pytest.fixture(scope="module", params=RUNS.values(), ids=RUNS)
def run(request, tmp_path_factory):
    """The messages of a run, the federation they came from, and the folder of the run."""
    table, folder = write_table(tmp_path_factory.mktemp("table"), PREFIX), tmp_path_factory.mktemp("run")
    recorder = recorded_run(table, output=folder, seed=SEED, **request.param)
    federation = simulated_federation(SimulationConfig(data=str(table)), silos=N_SILOS, seed=SEED)
    return recorder, federation, folder


def of_type(messages: list[Message], kind: str) -> list[Message]:
    return [message for message in messages if message.metadata.message_type == kind]


def arrays(messages: list[Message]) -> Iterator[np.ndarray]:
    for message in messages:
        for record in message.content.array_records.values():
            yield from (array.numpy() for array in record.values())


def scalars(messages: list[Message]) -> Iterator[int | float | str]:
    for message in messages:
        for record in message.content.config_records.values():
            for key, value in record.items():
                yield from (key, *(value if isinstance(value, list) else [value]))


def test_only_known_kinds_of_messages_travel(run):
    recorder, _, _ = run
    kinds = {message.metadata.message_type for message in (*recorder.sent, *recorder.replies)}
    assert kinds == {"query", "train", "query.conclude"}
    assert len(of_type(recorder.sent, "query")) == len(of_type(recorder.sent, "query.conclude")) == N_SILOS
    assert not any(reply.has_error() for reply in recorder.replies)
    assert not any(message.content.metric_records for message in (*recorder.sent, *recorder.replies))


def test_the_last_question_is_the_released_model_and_its_answer_a_certificate(run):
    recorder, _, folder = run
    model, releases = ((folder / name).read_bytes() for name in ("item_embeddings.safetensors", RELEASES))
    told = {"protocol": PROTOCOL, "content": model, "tables": sha256(releases), "earlier": ""}
    for message in of_type(recorder.sent, "query.conclude"):
        assert set(message.content) == {"conclusion"}
        assert dict(message.content.config_records["conclusion"]) == told
    for reply in of_type(recorder.replies, "query.conclude"):
        assert set(reply.content) == {"certificate"}
        assert set(reply.content.config_records["certificate"]) == {"protocol", "content"}


def test_certificates_hold_nothing_but_what_was_public_before(run):
    recorder, federation, _ = run
    for message in of_type(recorder.replies, "query.conclude"):
        certificate = read_certificate(message.content.config_records["certificate"]["content"])
        assert set(certificate.to_record()) == CERTIFICATE_KEYS
        numbers = [certificate.terms.declared_users, certificate.head.number]
        for release in certificate.releases:
            assert set(release.event.to_dict()) == {f.name for f in fields(ReleaseEvent)}
            numbers += [v for v in release.event.to_dict().values() if isinstance(v, int)]
        assert not private_counts(federation) & set(numbers)


def test_the_first_question_names_the_plan_and_its_answer_is_a_greeting(run):
    recorder, federation, _ = run
    for message in of_type(recorder.sent, "query"):
        assert dict(message.content.config_records["invitation"]) == {"protocol": PROTOCOL, "plan": PLAN}
    for reply in of_type(recorder.replies, "query"):
        assert set(reply.content) == {"greeting"}
        greeting = reply.content.config_records["greeting"]
        assert set(greeting) == GREETING_KEYS
        assert greeting["catalogue_hash"] == federation.dataset.catalogue.content_hash


def test_requests_hold_released_tables_and_public_numbers(run):
    recorder, _, _ = run
    for message in of_type(recorder.sent, "train"):
        assert set(message.content) == {"tables", "request"}
        assert set(message.content.config_records["request"]) <= REQUEST_KEYS
        assert set(message.content.array_records["tables"]) <= TABLES


def test_updates_hold_one_table_of_integers_and_its_event(run):
    recorder, _, _ = run
    for reply in of_type(recorder.replies, "train"):
        assert set(reply.content) == {"total", "update"}
        assert set(reply.content.config_records["update"]) == UPDATE_KEYS
        assert set(reply.content.array_records["total"]) == {"total"}
        assert reply.content.array_records["total"]["total"].numpy().dtype == np.int32


def test_all_rows_are_items(run):
    recorder, _, _ = run
    sizes, metrics = {len(head) for head in load_heads(recorder).values()}, of_metrics(recorder.replies)
    others = [message for message in recorder.sent + recorder.replies if message not in metrics]
    assert all(array.shape[0] in {N_ITEMS, *sizes} for array in arrays(others))


def of_metrics(messages: list[Message]) -> list[Message]:
    """Requests or updates of the round that measures the released model."""
    records = [(message, message.content.config_records) for message in of_type(messages, "train")]
    return [m for m, r in records if any(record.get("stage") == "metrics" for record in r.values())]


def test_the_metrics_are_asked_of_the_released_model_and_are_one_small_noised_sum(run):
    recorder, _, folder = run
    model = load_item_embeddings(folder / "item_embeddings.safetensors")
    assert len(of_metrics(recorder.sent)) == len(of_metrics(recorder.replies)) == N_SILOS
    for message in of_metrics(recorder.sent):
        tables = message.content.array_records["tables"]
        assert set(tables) == MODEL
        for name in MODEL:
            assert np.array_equal(tables[name].numpy(), getattr(model, name).numpy())
    for reply in of_metrics(recorder.replies):
        assert reply.content.array_records["total"]["total"].numpy().shape == (3, 1)
        assert reply.content.config_records["update"]["noise_multiplier"] > 1


def load_heads(recorder) -> dict[str, np.ndarray]:
    """Stage -> its rows, the same in every round of that stage."""
    found: dict[str, np.ndarray] = {}
    for message in of_type(recorder.sent, "train"):
        if "head" in message.content.array_records["tables"]:
            head = message.content.array_records["tables"]["head"].numpy()
            stage = message.content.config_records["request"]["stage"]
            assert np.array_equal(found.setdefault(stage, head), head)
            assert head.max() < N_ITEMS
    return found


def private_counts(federation) -> set[int]:
    """Numbers of users and interactions, of all silos and of each, and the users' numbers."""
    n_users, silos = federation.train.shape[0], federation.users_of_silo
    private = {n_users, federation.train.nnz, len(federation.dataset.interactions)}
    private |= {len(users) for users in silos} | {int(federation.train[users].nnz) for users in silos}
    return private | set(range(FIRST_ID, FIRST_ID + n_users))


def test_no_value_is_a_user_or_a_private_count(run):
    recorder, federation, _ = run
    private = private_counts(federation)
    for value in scalars(recorder.sent + recorder.replies):
        if isinstance(value, str):
            assert PREFIX not in value
            assert not value.isdecimal()
        else:
            assert value not in private
    for array in arrays(recorder.sent + recorder.replies):
        assert not private & set(array.shape)


def test_no_row_is_a_users_vector(run):
    recorder, federation, folder = run
    model = load_item_embeddings(folder / "item_embeddings.safetensors")
    users = user_vectors(model, histories_of(federation.train))
    # The model itself is not looked at: a user with one item has the direction of that item, which is public.
    model_requests = of_metrics(recorder.sent)
    for array in arrays([message for message in recorder.sent + recorder.replies if message not in model_requests]):
        if array.ndim == 2 and array.shape[1] > 3:
            width = min(array.shape[1], users.shape[1])
            rows = torch.nn.functional.normalize(torch.from_numpy(array[:, :width]).float(), dim=1)
            cosines = rows @ torch.nn.functional.normalize(users[:, :width], dim=1).T
            assert cosines.abs().max() < 1 - 1e-5


def test_no_column_is_a_users_history(run):
    recorder, federation, _ = run
    heads = load_heads(recorder)
    histories = torch.from_numpy(federation.train.toarray())
    metrics = of_metrics(recorder.replies)
    for reply in of_type(recorder.replies, "train"):
        if reply in metrics:
            continue
        (total,) = arrays([reply])
        head = heads.get(reply.content.config_records["update"]["stage"])
        over = histories if head is None else histories[:, head]
        columns = torch.nn.functional.normalize(torch.from_numpy(total).float(), dim=0)
        cosines = torch.nn.functional.normalize(over, dim=1) @ columns
        assert cosines.abs().max() < 0.999


def test_of_a_module_the_item_table_alone_travels(run):
    """Every array of every round, both ways, is a head or a table [n_head, columns of the item table], or counts."""
    recorder, _, folder = run
    module = load_item_embeddings(folder / "item_embeddings.safetensors").module
    if module is None:
        pytest.skip("of trainers of PyTorch modules")
    metrics = [*of_metrics(recorder.sent), *of_metrics(recorder.replies)]
    (n_head,) = {len(head) for head in load_heads(recorder).values()}
    table = (n_head, COLUMNS[module.name])
    asked = [message for message in recorder.sent if message not in metrics]
    replied = [message for message in recorder.replies if message not in metrics]
    assert {array.shape for array in arrays(asked)} == {(n_head,), table}
    assert {array.shape for array in arrays(replied)} == {(N_ITEMS, 1), table}
