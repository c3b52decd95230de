"""The silo's own model: sealed, of one released model, used where the operator says so, the same in its service."""

import stat
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from command_line import json_of, run_command
from safetensors.numpy import save
from scipy import sparse

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.cli._serving import _of_silo
from recsys_fed.context import sum_effects
from recsys_fed.errors import ConfigurationError, KeyFileError
from recsys_fed.models.histories import Signals, histories_of
from recsys_fed.models.items import FoldIn, ItemEmbeddings, TrainedModule, item_embeddings_bytes
from recsys_fed.models.self_attention import AttentionSettings
from recsys_fed.personalisation.choice import choose_on, fit_with_fusion
from recsys_fed.personalisation.next_item import choose_next
from recsys_fed.personalisation.silo_model import Recipe, Shown, fit_silo_model, released_scores
from recsys_fed.serving.packed_model import read_packed_model
from recsys_fed.serving.packing import pack
from recsys_fed.serving.reload import ModelSource
from recsys_fed.silo import _own_model as own_model_module
from recsys_fed.silo._own_model import pack_model, residual_of, unpack_model
from recsys_fed.silo.recommendations import open_recommender
from recsys_fed.silo.secret import Pseudonyms, SiloSecret
from recsys_fed.silo.settings import SiloSettings, read_silo_settings
from recsys_fed.silo.state import StateFolder
from recsys_fed.silo.told import Knowledge

N_ITEMS, N_USERS = 40, 60
CATALOGUE = Catalogue(item_ids=np.array([f"i{item}" for item in range(N_ITEMS)], dtype=object))
SECRET = SiloSecret.generate()
PSEUDONYMS = Pseudonyms(SECRET)


def histories(seed=0):
    rng = np.random.default_rng(seed)
    likely = np.where(np.arange(N_ITEMS) % 4 == (np.arange(N_USERS) % 4)[:, None], 0.5, 0.05)
    return sparse.csr_matrix((rng.random((N_USERS, N_ITEMS)) < likely).astype(np.float32))


def model(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return ItemEmbeddings(
        vectors=torch.randn(N_ITEMS, 3, generator=generator), bias=torch.randn(N_ITEMS, generator=generator),
        history_weights=torch.ones(N_ITEMS), fold_in=FoldIn(kind="projection"),
        catalogue_hash=CATALOGUE.content_hash,
    )  # fmt: skip


def keep(state, seed=0):
    users = PSEUDONYMS.of_all(np.array([f"u{row}" for row in range(N_USERS)], dtype=object))
    return state.keep(item_embeddings_bytes(model(seed)), [(users, histories_of(histories()))])


def make_silo(folder, level, *more):
    """What the operator's commands need beside the state, with `more` lines of silo.toml."""
    if not (folder / "keys").is_dir():
        SECRET.save(folder / "keys" / "secret.key")
    CATALOGUE.save(folder / "catalogue.parquet")
    lines = ["[silo]", f'personalisation = "{level}"', 'name = "north"', 'catalogue = "catalogue.parquet"', *more]
    (folder / "silo.toml").write_text("\n".join([*lines, "[agreed]", "silos = 2", "[data]", 'path = "x.csv"']) + "\n")


@pytest.fixture
def state(tmp_path):
    folder = StateFolder(tmp_path / "state", SECRET)
    keep(folder)
    return folder


def test_it_is_used_where_the_operator_says_so_and_only_there(state, tmp_path):
    plain = open_recommender(state, CATALOGUE, PSEUDONYMS)
    assert plain.personal is None
    assert not list((tmp_path / "state").glob("personal-*"))
    trusted = open_recommender(state, CATALOGUE, PSEUDONYMS, personalisation="silo-trusted")
    rows = list(range(N_USERS))
    known = histories().toarray() > 0
    hits = []
    for recommender in (plain, trusted):
        items = recommender.best(rows, 5)[0].numpy()
        assert not known[np.arange(N_USERS)[:, None], items].any()
        hits.append((items % 4 == np.arange(N_USERS)[:, None] % 4).mean())
    # The released model is noise here; the silo's own users say which items go together.
    assert hits[0] < 0.4
    assert hits[1] > 0.6


def test_it_is_sealed_fitted_once_and_gone_with_its_released_model(state, tmp_path):
    first = state.personal()
    path = next((tmp_path / "state").glob("personal-*.sealed"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    stamp = path.stat().st_mtime_ns
    again = state.personal()
    assert path.stat().st_mtime_ns == stamp
    np.testing.assert_array_equal(again.scores(histories()), first.scores(histories()))
    keep(state)
    assert not path.exists(), "the same model with new data is fitted anew"
    state.personal()
    keep(state, seed=1)
    path.replace(path.with_name(f"personal-{state.current()[:16]}.sealed"))
    with pytest.raises(KeyFileError, match="sealed"):
        state.personal()
    keep(state, seed=2)
    keep(state, seed=3)
    assert not list((tmp_path / "state").glob("personal-*"))


def test_the_same_state_gives_the_same_model(state, tmp_path):
    other = StateFolder(tmp_path / "other", SECRET)
    keep(other)
    assert other.personal().recipe == state.personal().recipe


RECIPES = [
    Recipe(own_weight=0.0),
    Recipe(own_weight=2.0, pull=1.0),
    Recipe(own_weight=float("inf"), regularization=0.3),
]
OTHERWISE = Recipe(own_weight=2.0, pull=1.0, shown=Shown(row_exponent=0.25, bias=False))


@pytest.mark.parametrize("recipe", [*RECIPES, OTHERWISE])
@pytest.mark.parametrize("n_users", [60, 10])
def test_what_is_packed_comes_back(recipe, n_users):
    found = fit_silo_model(histories()[:n_users], model(), recipe)
    back = unpack_model(pack_model(found), model())
    assert back.recipe == found.recipe
    np.testing.assert_array_equal(back.scores(histories()), found.scores(histories()))


def test_what_earlier_versions_sealed_is_read():
    """A model was a product of two tables, and the released model was scored as it is."""
    left, right = np.random.default_rng(0).standard_normal((2, N_ITEMS, 7)).astype(np.float32)
    content = save(
        {"spreads": np.array([2.0, 3.0]), "recipe": np.array([1.5, 1.0, 0.3]), "left": left, "right": right}
    )
    train = histories()
    whole, own = released_scores(model(), train), (train @ left) @ right.T
    np.testing.assert_allclose(unpack_model(content, model()).scores(train), whole / 2 + 1.5 / 3 * own, rtol=1e-5)


def test_the_service_gets_a_recipe_that_it_can_score(state, monkeypatch):
    with pytest.raises(ConfigurationError, match="as it is"):
        residual_of(fit_silo_model(histories(), model(), OTHERWISE))
    personal = fit_silo_model(histories(), model(), OTHERWISE)
    monkeypatch.setattr(state, "personal", lambda _: personal)
    table = np.load(state.write_residual())
    assert table.shape == (N_ITEMS, N_ITEMS)
    assert np.abs(table).max() > 0


def test_private_parts_are_recommended_with_and_the_service_gets_the_best_without(tmp_path, monkeypatch):
    """A module's parts that win on the silo's users are what `silo recommend` and `silo export` go by."""
    module = TrainedModule(name="autoencoder", dim=3, item_table="items.weight", loss="bce", bias_scale=0.0)
    released = replace(model(), module=module)
    make_silo(tmp_path, "silo-trusted")
    folder = StateFolder(tmp_path / "state", SECRET)
    users = PSEUDONYMS.of_all(np.array([f"u{row}" for row in range(N_USERS)], dtype=object))
    folder.keep(item_embeddings_bytes(released), [(users, histories_of(histories()))])
    recipe = Recipe(own_weight=0.0, private_parts=True)

    def choose_parts(folds, own, model, **settings):
        chosen = choose_on(folds, own, replace(model, module=None), **settings)
        return replace(chosen, recipe=recipe) if model.module is not None else chosen

    monkeypatch.setattr(own_model_module, "choose_on", choose_parts)
    expected = fit_silo_model(histories(), released, recipe).scores(histories()[:1])[0]
    expected[histories()[0].indices] = -np.inf
    best = json_of(run_command("silo", "recommend", tmp_path, "u0", "--json")[1])
    assert [row["item"] for row in best] == [f"i{item}" for item in np.argsort(-expected)[: len(best)]]
    code, out, err = run_command("silo", "residual", tmp_path)
    assert code == 0, err
    assert "without the private parts" in out + err
    # The silo's own users say more than a released model of noise.
    assert np.abs(np.load(next((tmp_path / "state").glob("residual-*.npy")))).max() > 0


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("n_users", [60, 10])
def test_the_services_table_ranks_as_the_silo_does(recipe, n_users):
    train = histories()[:n_users]
    found = fit_silo_model(train, model(), recipe)
    table = residual_of(found)
    assert (np.diag(table) == 0).all()
    served = released_scores(model(), train) + train @ table
    free = train.toarray() == 0
    for row, scores in enumerate(found.scores(train)):
        mine, best = scores[free[row]], np.argsort(-served[row][free[row]])[:5]
        # Items that nobody tells apart may change places.
        np.testing.assert_allclose(mine[best], np.sort(mine)[::-1][:5], atol=1e-4 * mine.std())


def test_the_service_waits_for_the_table_of_the_newest_model(state, tmp_path):
    folder = tmp_path / "state"
    plain = ModelSource(place=folder, catalogue=folder)
    source = replace(plain, weights=folder)
    assert plain.stamp() is not None
    assert source.stamp() is None
    path = state.write_residual()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert source.residual == path
    assert source.stamp() is not None
    keep(state, seed=5)
    assert source.stamp() is None
    assert plain.residual is None


def test_silo_toml_knows_both_levels():
    assert SiloSettings(name="a", personalisation="silo-trusted").personalisation == "silo-trusted"
    with pytest.raises(ConfigurationError, match="personalisation"):
        SiloSettings(name="a", personalisation="everything")


def test_the_operators_commands_follow_silo_toml(state, tmp_path):
    make_silo(tmp_path, "user-only")
    assert _of_silo(tmp_path, None)[3:] == (None, "")
    code, _, err = run_command("silo", "residual", tmp_path)
    assert (code, "silo-trusted" in err) == (2, True)
    plain = json_of(run_command("silo", "recommend", tmp_path, "u0", "--json")[1])

    make_silo(tmp_path, "silo-trusted")
    with pytest.raises(ConfigurationError, match="silo residual"):
        _of_silo(tmp_path, None)
    trusted = json_of(run_command("silo", "recommend", tmp_path, "u0", "--json")[1])
    assert [row["item"] for row in trusted] != [row["item"] for row in plain]
    code, _, err = run_command("silo", "residual", tmp_path)
    assert code == 0, err
    assert _of_silo(tmp_path, None)[3:] == (tmp_path / "state", "silo-trusted")
    table = np.load(next((tmp_path / "state").glob("residual-*.npy")))
    assert table.shape == (N_ITEMS, N_ITEMS)


MORE = 120


def silo_with_attributes(tmp_path):
    """A silo of users of two kinds, of whom the released model knows nothing and each history little."""
    SECRET.save(tmp_path / "keys" / "secret.key")
    CATALOGUE.save(tmp_path / "catalogue.parquet")
    rows = [f"u{row},{('left', 'right')[row % 2]}" for row in range(MORE + 1)]
    (tmp_path / "users.csv").write_text("\n".join(["user,side", *rows]) + "\n")
    lines = ["[silo]", 'name = "north"', 'personalisation = "silo-trusted"', 'catalogue = "catalogue.parquet"',
             "[agreed]", "silos = 2", "[data]", 'path = "x.csv"', 'time = "time"']  # fmt: skip
    lines += ["[attributes]", 'path = "users.csv"', 'columns = "side=side"', 'context = "hour"']
    (tmp_path / "silo.toml").write_text("\n".join(lines) + "\n")
    rng = np.random.default_rng(1)
    side, evening = np.arange(MORE)[:, None] % 2, rng.random((MORE, N_ITEMS)) < 0.5
    odd, late = np.arange(N_ITEMS) % 2, np.arange(N_ITEMS) >= 30
    likely = np.where(evening, np.where(late, 0.2, 0.01), np.where((odd == side) & ~late, 0.2, 0.01))
    train = sparse.csr_matrix((rng.random(likely.shape) < likely).astype(np.float32))
    hours = np.where(evening[train.nonzero()], 21, 9)
    times = torch.from_numpy((np.int64(1_700_000_000) // 86_400 * 86_400 + hours * 3_600) * 10**9)
    users = PSEUDONYMS.of_all(np.array([f"u{row}" for row in range(MORE)], dtype=object))
    plain = replace(model(), vectors=torch.zeros(N_ITEMS, 3), bias=torch.zeros(N_ITEMS))
    state = StateFolder(tmp_path / "state", SECRET)
    state.keep(item_embeddings_bytes(plain), [(users, histories_of(train, signals=Signals(time=times)))])
    return state, plain


def recommended(tmp_path, user, *more):
    code, out, err = run_command("silo", "recommend", tmp_path, user, "--json", "-k", 8, *more)
    assert code == 0, err
    return np.array([int(row["item"][1:]) for row in json_of(out)])


def test_attributes_and_the_hour_change_what_a_silo_recommends_and_are_sealed(tmp_path):
    state, _ = silo_with_attributes(tmp_path)
    for user, side in (("u0", 0), ("u1", 1)):
        assert (recommended(tmp_path, user, "--at", "2026-11-30T09:15:00Z") % 2 == side).mean() > 0.6
    assert (recommended(tmp_path, "u0", "--at", "2026-11-30T22:15:00Z") >= 30).mean() > 0.6
    code, _, err = run_command("silo", "export", tmp_path, tmp_path / "best.parquet", "--at", "2026-11-30")
    assert code == 0, err
    for path in (tmp_path / "state").iterdir():
        assert b"left" not in path.read_bytes(), path
    (own,) = (tmp_path / "state").glob("personal-*.sealed")
    stamp = own.stat().st_mtime_ns
    recommended(tmp_path, "u0")
    assert own.stat().st_mtime_ns == stamp
    # Without [attributes] it is fitted anew, and to nothing of them.
    silo_with_attributes_off(tmp_path)
    assert (
        recommended(tmp_path, "u0").tolist() == recommended(tmp_path, "u0", "--at", "2026-11-30T22:15:00Z").tolist()
    )
    assert own.stat().st_mtime_ns > stamp
    assert state.personal().fusion is None


def silo_with_attributes_off(tmp_path):
    path = tmp_path / "silo.toml"
    path.write_text(path.read_text().partition("[attributes]")[0])


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_service_ranks_with_attributes_as_the_silo_does(tmp_path, monkeypatch, recipe):
    state, plain = silo_with_attributes(tmp_path)
    matrix, users = state.users().histories.matrix(), state.users()
    told = Knowledge.of_silo(read_silo_settings(tmp_path), PSEUDONYMS).of(users.users, users.histories)
    personal = fit_with_fusion(matrix, told, plain, recipe, {"side": 0.8, "hour": 0.4})
    monkeypatch.setattr(state, "personal", lambda _: personal)
    state.write_residual()
    source = ModelSource(
        place=tmp_path / "state", catalogue=tmp_path / "catalogue.parquet", weights=tmp_path / "state"
    )
    assert stat.S_IMODE(source.effects.stat().st_mode) == 0o600
    version = pack(source.model, source.catalogue, tmp_path / "s", residual=source.residual, effects=source.effects)
    release = read_packed_model(tmp_path / "s" / "versions" / version[:16])
    assert version != pack(source.model, source.catalogue, tmp_path / "s", residual=source.residual)
    with pytest.raises(ConfigurationError, match="alone"):
        pack(source.model, source.catalogue, tmp_path / "s", effects=source.effects)
    served = released_scores(plain, matrix) + matrix @ release.residual
    served = served + sum_effects(release.effects, {"side": "left", "hour": "21"})
    asked = {"side": ["left"] * MORE, "hour": ["20 to 23"] * MORE}
    mine = personal.fusion.add_to(personal.scores(matrix), asked)
    for row in range(MORE):
        free = np.flatnonzero(matrix[row].toarray()[0] == 0)
        best = free[np.argsort(-served[row][free])[:5]]
        np.testing.assert_allclose(mine[row][best], np.sort(mine[row][free])[::-1][:5], atol=1e-4 * mine[row].std())
    # Who leaves takes along what was fitted.
    assert state.remove_users(frozenset(state.users().users[:1].tolist())) == 1
    assert not list((tmp_path / "state").glob("effects-*")) and not list((tmp_path / "state").glob("personal-*"))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['columns = "a=b"'], "together"),
        (['context = "phase of the moon"'], "hour"),
        (['path = "nowhere.csv"', 'columns = "a=b"'], "nowhere.csv"),
        (['path = "users.csv"', 'columns = "a=b"'], "columns b"),
        (['paths = "users.csv"'], "paths"),
    ],
)
def test_attributes_that_cannot_be_read_are_refused(tmp_path, lines, said):
    silo_with_attributes(tmp_path)
    silo_with_attributes_off(tmp_path)
    path = tmp_path / "silo.toml"
    path.write_text("\n".join([path.read_text(), "[attributes]", *lines]) + "\n")
    code, _, err = run_command("silo", "recommend", tmp_path, "u0")
    assert code == 2 and said in " ".join(err.split())


def test_attributes_are_for_silo_trusted_and_contexts_need_times(tmp_path):
    silo_with_attributes(tmp_path)
    path = tmp_path / "silo.toml"
    text = path.read_text()
    for changed, said in ((text.replace("silo-trusted", "user-only"), "silo-trusted"),
                          (text.replace('time = "time"', ""), "data.time")):  # fmt: skip
        path.write_text(changed)
        code, _, err = run_command("silo", "recommend", tmp_path, "u0")
        assert code == 2 and said in " ".join(err.split())
    path.write_text(text)
    keep(StateFolder(tmp_path / "state", SECRET))
    code, _, err = run_command("silo", "recommend", tmp_path, "u0")
    assert code == 2 and "without" in err


def test_self_attention_is_tried_where_silo_toml_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(own_model_module, "AttentionSettings", partial(AttentionSettings, embedding_dim=4, epochs=1))
    folder, asked = StateFolder(tmp_path / "state", SECRET), []
    rank = torch.cat([torch.arange(n) for n in np.diff(histories().indptr)]).int()
    users = PSEUDONYMS.of_all(np.array([f"u{row}" for row in range(N_USERS)], dtype=object))
    ordered = histories_of(histories(), signals=Signals(rank=rank))
    released = replace(model(), fold_in=FoldIn(kind="projection", half_life=2.0))

    def choose_attention(held, released, *, attention):
        asked.append(attention)
        chosen = choose_next(held, released)
        return replace(chosen, recipe=replace(chosen.recipe, attention_weight=2.0)) if attention else chosen

    monkeypatch.setattr(own_model_module, "choose_next", choose_attention)
    folder.keep(item_embeddings_bytes(released), [(users, ordered)])
    lists = []
    for more in ((), ("self-attention = true",), ("self-attention = true",), ()):
        make_silo(tmp_path, "silo-trusted", *more)
        lists.append(json_of(run_command("silo", "recommend", tmp_path, "u0", "--json")[1]))
    assert lists[0] == lists[3]
    assert lists[1] == lists[2]
    assert lists[0] != lists[1]
    # Fitted when it is first asked for, and whenever the switch was turned.
    assert [settings is not None for settings in asked] == [False, True, False]
