"""What a silo keeps: sealed, of one model, whole or not at all, and enough to recommend from."""

import stat
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError, KeyFileError
from recsys_fed.models.histories import Signals, histories_of
from recsys_fed.models.items import FoldIn, ItemEmbeddings, item_embeddings_bytes, scores, user_vectors
from recsys_fed.personalisation.next_item import NextItemModel
from recsys_fed.silo.recommendations import export_recommendations, open_recommender, recommend_user
from recsys_fed.silo.secret import Pseudonyms, SiloSecret, read_sealed, write_sealed
from recsys_fed.silo.state import StateFolder

N_ITEMS = 12
CATALOGUE = Catalogue(item_ids=np.array([f"i{item}" for item in range(N_ITEMS)], dtype=object))
SECRET = SiloSecret.generate()
PSEUDONYMS = Pseudonyms(SECRET)
USERS = ["ann", "bob", "cy"]


def model(seed: int = 0) -> ItemEmbeddings:
    generator = torch.Generator().manual_seed(seed)
    return ItemEmbeddings(
        vectors=torch.randn(N_ITEMS, 3, generator=generator),
        bias=torch.zeros(N_ITEMS),
        history_weights=torch.ones(N_ITEMS),
        fold_in=FoldIn(kind="projection"),
        catalogue_hash=CATALOGUE.content_hash,
    )


def histories() -> sparse.csr_matrix:
    matrix = np.zeros((3, N_ITEMS), dtype=np.float32)
    matrix[0, [0, 1]] = matrix[1, [2]] = 1
    return sparse.csr_matrix(matrix)


@pytest.fixture
def folder(tmp_path):
    state = StateFolder(tmp_path / "state", SECRET)
    state.keep(
        item_embeddings_bytes(model()),
        [(PSEUDONYMS.of_all(np.array(USERS, dtype=object)), histories_of(histories()))],
    )
    return state


def test_the_best_items_are_those_of_the_fold_in_without_what_is_known(folder):
    recommender = open_recommender(folder, CATALOGUE, PSEUDONYMS)
    expected = scores(model(), user_vectors(model(), histories_of(histories())))
    expected[0, [0, 1]] = -torch.inf
    found = recommend_user(recommender, "ann", k=4)
    assert [item["item"] for item in found] == [
        f"i{row}" for row in expected[0].argsort(descending=True)[:4].tolist()
    ]
    assert [item["rank"] for item in found] == [1, 2, 3, 4]
    assert len(recommend_user(recommender, "ann", k=99)) == N_ITEMS - 2
    with pytest.raises(ConfigurationError, match="user of this silo") as refused:
        recommend_user(recommender, "dora")
    assert "dora" not in str(refused.value)
    with pytest.raises(ConfigurationError):
        recommend_user(recommender, "ann", k=0)


def test_an_export_has_every_user_or_those_that_are_named(folder, tmp_path):
    import pyarrow.parquet as pq

    recommender = open_recommender(folder, CATALOGUE, PSEUDONYMS)
    assert export_recommendations(recommender, tmp_path / "all.parquet", k=3) == 3
    whole = pq.read_table(tmp_path / "all.parquet").to_pandas()
    assert set(whole.user) == {PSEUDONYMS.of(user) for user in USERS}
    assert len(whole) == 9
    assert export_recommendations(recommender, tmp_path / "some.parquet", k=3, users=["bob", "dora"]) == 1
    some = pq.read_table(tmp_path / "some.parquet").to_pandas()
    assert some.user.tolist() == ["bob"] * 3
    assert some.item.tolist() == [item["item"] for item in recommend_user(recommender, "bob", k=3)]
    with pytest.raises(ConfigurationError, match="There is a file"):
        export_recommendations(recommender, tmp_path / "all.parquet")


def test_only_the_secret_opens_it(folder, tmp_path):
    sealed = next((tmp_path / "state").glob("users-*.sealed"))
    assert stat.S_IMODE(sealed.stat().st_mode) == 0o600
    content = sealed.read_bytes()
    assert PSEUDONYMS.of("ann").encode() not in content
    assert folder.users().vectors[0].numpy().tobytes() not in content
    with pytest.raises(KeyFileError):
        StateFolder(tmp_path / "state", SiloSecret.generate()).users()
    for place in range(0, len(content), 97):
        changed = bytearray(content)
        changed[place] ^= 1
        sealed.write_bytes(bytes(changed))
        with pytest.raises(KeyFileError):
            folder.users()


def test_vectors_of_one_model_are_never_used_with_another(folder, tmp_path):
    first = next((tmp_path / "state").glob("users-*.sealed")).read_bytes()
    second = folder.keep(
        item_embeddings_bytes(model(1)), [(np.array(["x"] * 3, dtype=object), histories_of(histories()))]
    )
    assert folder.current() == second
    (tmp_path / "state" / f"users-{second[:16]}.sealed").write_bytes(first)
    with pytest.raises(KeyFileError):
        folder.users()
    (tmp_path / "state" / f"model-{second[:16]}.safetensors").write_bytes(item_embeddings_bytes(model(2)))
    with pytest.raises(DataFormatError, match="changed"):
        folder.model()


def test_the_two_newest_versions_are_kept(folder, tmp_path):
    for seed in (1, 2, 3):
        folder.keep(
            item_embeddings_bytes(model(seed)), [(np.array(["x"] * 3, dtype=object), histories_of(histories()))]
        )
    assert len(list((tmp_path / "state").glob("users-*.sealed"))) == 2
    assert len(list((tmp_path / "state").glob("model-*.safetensors"))) == 2
    assert folder.model().vectors.equal(model(3).vectors)


def test_a_crash_before_the_end_leaves_the_version_before(folder, tmp_path, monkeypatch):
    before = folder.current()

    def crash(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("recsys_fed.silo.state.write_sealed", crash)
    with pytest.raises(KeyboardInterrupt):
        folder.keep(item_embeddings_bytes(model(1)), [(np.array(["x"] * 3, dtype=object), histories_of(histories()))])
    assert folder.current() == before
    assert folder.users().users.tolist() == [PSEUDONYMS.of(user) for user in USERS]


def test_what_is_no_model_of_this_catalogue_is_refused(folder):
    for content in (b"", b"nothing", item_embeddings_bytes(model())[:-4]):
        with pytest.raises(DataFormatError):
            folder.keep(content, [(np.array(["x"] * 3, dtype=object), histories_of(histories()))])
    with pytest.raises(DataFormatError, match="items"):
        folder.keep(
            item_embeddings_bytes(model()), [(np.array(["x"], dtype=object), histories_of(sparse.csr_matrix((1, 4))))]
        )
    assert folder.users().users.tolist() == [PSEUDONYMS.of(user) for user in USERS]


def test_an_empty_silo_has_a_state_as_well(tmp_path):
    state = StateFolder(tmp_path, SECRET)
    with pytest.raises(DataNotFoundError):
        state.model()
    state.keep(
        item_embeddings_bytes(model()), [(np.empty(0, dtype=object), histories_of(sparse.csr_matrix((0, N_ITEMS))))]
    )
    assert state.users().vectors.shape == (0, 3)


def test_a_secret_is_kept_private_and_under_its_passphrase(tmp_path):
    path = tmp_path / "keys" / "secret.key"
    SECRET.save(path, passphrase="long enough")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"ENCRYPTED" in path.read_bytes()
    assert SiloSecret.load(path, passphrase="long enough").derive_key("x") == SECRET.derive_key("x")
    for wrong in ("other", None):
        with pytest.raises(KeyFileError):
            SiloSecret.load(path, passphrase=wrong)
    with pytest.raises(ConfigurationError, match="There is a key"):
        SECRET.save(path)
    assert len({SECRET.derive_key(purpose) for purpose in ("x", "y", "z")}) == 3


def test_a_file_for_one_purpose_does_not_open_for_another(tmp_path):
    key = SECRET.derive_key("x")
    write_sealed(tmp_path / "f", b"content", key=key, label="one")
    assert read_sealed(tmp_path / "f", key=key, label="one") == b"content"
    with pytest.raises(KeyFileError):
        read_sealed(tmp_path / "f", key=key, label="two")
    first = (tmp_path / "f").read_bytes()
    write_sealed(tmp_path / "f", b"content", key=key, label="one")
    assert (tmp_path / "f").read_bytes() != first, "every file has a nonce of its own"


def test_what_is_kept_has_the_order_of_each_user_and_so_have_the_lists(tmp_path):
    how = FoldIn(kind="projection", half_life=1.0)
    ordered, state = replace(model(), fold_in=how), StateFolder(tmp_path, SECRET)
    # Two users with the same items in opposite orders.
    matrix = sparse.csr_matrix(np.tile(np.array([1.0, 1.0, 1.0] + [0.0] * (N_ITEMS - 3)), (2, 1)))
    ranks = torch.tensor([0, 1, 2, 2, 1, 0], dtype=torch.int32)
    parts = [
        (
            PSEUDONYMS.of_all(np.array([user], dtype=object)),
            histories_of(matrix[row], signals=Signals(rank=ranks[some])),
        )
        for row, (user, some) in enumerate({"ann": slice(0, 3), "bob": slice(3, 6)}.items())
    ]
    state.keep(item_embeddings_bytes(ordered), parts)
    assert torch.equal(state.users().histories.signals.rank, ranks)
    vectors = ordered.vectors[:3]
    decay = torch.tensor([0.25, 0.5, 1.0])
    expected = torch.stack([decay @ vectors, decay.flip(0) @ vectors]) / decay.norm()
    torch.testing.assert_close(state.users().vectors, expected)
    recommender = open_recommender(state, CATALOGUE, PSEUDONYMS)
    for row, user in enumerate(("ann", "bob")):
        best = (expected[row] @ ordered.vectors[3:].T).argsort(descending=True)[:3] + 3
        assert [item["item"] for item in recommend_user(recommender, user, k=3)] == [
            f"i{item}" for item in best.tolist()
        ]


def test_the_silos_own_model_of_the_next_item_is_sealed_and_opened_as_it_was(tmp_path):
    rng = np.random.default_rng(0)
    lists = [[(start + step) % N_ITEMS for step in range(rng.integers(2, 6))] for start in range(40)]
    rows = np.repeat(np.arange(40), [len(items) for items in lists])
    matrix = sparse.csr_matrix(
        (np.ones(len(rows)), (rows, [item for items in lists for item in items])), (40, N_ITEMS)
    )
    matrix.sort_indices()
    ranks = [lists[user].index(item) for user, item in zip(rows.tolist(), matrix.indices.tolist(), strict=True)]
    known = histories_of(matrix, signals=Signals(rank=torch.tensor(ranks, dtype=torch.int32)))
    ordered, state = replace(model(), fold_in=FoldIn(kind="projection", half_life=1.0)), StateFolder(tmp_path, SECRET)
    state.keep(item_embeddings_bytes(ordered), [(np.array([f"u{n}" for n in range(40)], dtype=object), known)])
    first, again = state.personal(), state.personal()
    assert isinstance(first, NextItemModel)
    assert first.recipe == again.recipe
    np.testing.assert_allclose(again.scores(known), first.scores(known))
    recommender = open_recommender(state, CATALOGUE, PSEUDONYMS, personalisation="silo-trusted")
    best, _ = recommender.best(range(40), 1)
    assert best[:, 0].tolist() == [(items[-1] + 1) % N_ITEMS for items in lists]
    with pytest.raises(ConfigurationError, match="next item"):
        state.write_residual()
