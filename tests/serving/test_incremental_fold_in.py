"""One event at a time gives the vector that the whole history gives, and that training's own fold-in gives."""

import numpy as np
import pytest
import torch
from scipy import sparse
from serving_kit import made_release

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.data.interactions import MISSING_TIME, id_array
from recsys_fed.models.histories import Signals, histories_of
from recsys_fed.models.items import FoldIn, ItemEmbeddings, save_item_embeddings
from recsys_fed.models.items import fold_in as fold_in_of_training
from recsys_fed.serving.fold_in import build_equations, explain, fold_in, known_levels
from recsys_fed.serving.history import EARLIEST, Event, UserHistory, build_history, half_lives
from recsys_fed.serving.packed_model import read_packed_model
from recsys_fed.serving.packing import pack
from recsys_fed.serving.settings import FeedbackSettings
from recsys_fed.serving.versions import DIGITS

KINDS = ("view", "click", "cart", "like", "buy", "rating", "dislike")


def random_events(n, *, n_items, seed, days=400.0):
    rng = np.random.default_rng(seed)
    times = 1.7e9 + np.sort(rng.uniform(0.0, days * 86_400.0, size=n))
    return [
        Event(
            user="u",
            item=f"i{rng.integers(n_items + 3)}",  # some are not in the catalogue
            kind=str(rng.choice(KINDS)),
            time=float(time),
            value=float(rng.integers(1, 6)),
            number=number,
        )
        for number, time in enumerate(times, start=1)
    ]


@pytest.mark.parametrize("kind", ["ridge", "projection"])
@pytest.mark.parametrize("half_life", [0.0, 30.0])
def test_a_thousand_events_one_by_one_equal_the_full_solve(kind, half_life):
    release = made_release(kind=kind, n_items=200, dim=16)
    settings = FeedbackSettings(half_life_days=half_life, rating_minimum=3.0)
    history, events = UserHistory(), random_events(1_000, n_items=200, seed=3)
    equations = build_equations(release, history)
    for event in events:
        change = history.apply(event, settings)
        if change is not None:
            equations.update(change, history)
    now = half_lives(events[-1].time + 3_600.0, settings)
    rows, levels = known_levels(release, history)
    whole = fold_in(release, rows, np.exp2(levels - now))
    assert equations.changes > 200  # not rebuilt on the way
    np.testing.assert_allclose(equations.solve(now=now), whole, rtol=1e-5, atol=1e-7)
    assert np.linalg.norm(whole) > 0.1


def test_events_that_age_for_years_keep_the_sums_in_range():
    release = made_release()
    settings = FeedbackSettings(half_life_days=1.0)
    history, events = UserHistory(), random_events(300, n_items=60, seed=5, days=4_000.0)
    equations = build_equations(release, history)
    for event in events:
        change = history.apply(event, settings)
        if change is not None:
            equations.update(change, history)
    now = half_lives(events[-1].time, settings)
    rows, levels = known_levels(release, history)
    whole = fold_in(release, rows, np.exp2(levels - now))
    np.testing.assert_allclose(equations.solve(now=now), whole, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", ["ridge", "projection"])
def test_plain_interactions_give_the_vector_of_training(kind):
    release = made_release(kind=kind)
    rows = np.array([3, 8, 21, 40])
    one = sparse.csr_matrix((np.ones(4), ([0] * 4, rows)), shape=(1, release.n_items))
    how = FoldIn(kind=kind, unobserved_weight=release.unobserved_weight, regularization=release.regularization)
    tables = torch.from_numpy(release.vectors), histories_of(one), torch.from_numpy(release.weights)
    expected = fold_in_of_training(*tables, how=how)[0].numpy()
    events = [Event(user="u", item=f"i{row}", kind="imported", time=0.0) for row in rows]
    found = build_equations(release, build_history(events, FeedbackSettings())).solve(now=0.0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_dislike_takes_an_item_out_and_a_thousand_clicks_weigh_as_one():
    release, settings = made_release(), FeedbackSettings()
    plain = [Event(user="u", item="i1", kind="buy", time=0.0)]
    clicks = [Event(user="u", item="i2", kind="click", time=0.0)] * 1_000
    gone = [Event(user="u", item="i3", kind="buy", time=0.0), Event(user="u", item="i3", kind="dislike", time=1.0)]
    often = build_equations(release, build_history([*plain, *clicks, *gone], settings)).solve(now=0.0)
    once = build_equations(release, build_history([*plain, clicks[0]], settings)).solve(now=0.0)
    np.testing.assert_allclose(often, once, rtol=1e-12)
    history = build_history([*plain, *gone], settings)
    assert set(history.consumed) == {"i1", "i3"}
    assert "i3" not in history.levels


def test_an_empty_history_has_the_zero_vector():
    for kind in ("ridge", "projection"):
        release = made_release(kind=kind)
        assert not build_equations(release, UserHistory()).solve(now=0.0).any()
        unknown = UserHistory(levels={"nothing": 0.0})
        assert not build_equations(release, unknown).solve(now=0.0).any()


@pytest.mark.parametrize("half_life", [0.0, 30.0])
def test_what_was_imported_is_taken_in_at_once_as_one_by_one(half_life):
    settings = FeedbackSettings(half_life_days=half_life, imported=0.7)
    imported = [Event(user="u", item=f"i{n % 9}", kind="imported", time=float(n), number=n + 1) for n in range(20)]
    events = [
        *imported,
        *(event._replace(number=event.number + 20) for event in random_events(50, n_items=9, seed=1)),
    ]
    one_by_one = UserHistory()
    for event in events:
        one_by_one.apply(event, settings)
    assert build_history(events, settings) == one_by_one
    assert len(one_by_one.consumed) >= 9


@pytest.mark.parametrize("kind", ["ridge", "projection"])
@pytest.mark.parametrize("half_life_days", [0.0, 30.0])
def test_places_age_a_history_event_by_event_as_all_at_once(kind, half_life_days):
    release = made_release(kind=kind, n_items=200, dim=16, half_life=2.0)
    settings = FeedbackSettings(half_life_days=half_life_days, rating_minimum=3.0)
    history, events = UserHistory(), random_events(400, n_items=200, seed=4)
    equations = build_equations(release, history)
    for event in events:
        change = history.apply(event, settings)
        if change is not None:
            equations.update(change, history)
    now = half_lives(events[-1].time, settings)
    rows, levels = known_levels(release, history)
    whole = fold_in(release, rows, np.exp2(levels - now - history.newest / 2.0))
    np.testing.assert_allclose(equations.solve(now=now), whole, rtol=1e-5, atol=1e-7)
    fresh = build_equations(release, build_history(events, settings))
    np.testing.assert_allclose(fresh.solve(now=now), whole, rtol=1e-9)


@pytest.mark.parametrize("kind", ["ridge", "projection"])
@pytest.mark.parametrize("half_life_days", [2.0, 30.0])
def test_times_age_a_history_event_by_event_as_they_do_in_training(kind, half_life_days):
    """Some events come late, some items were imported without a time, and the newest is disliked in the end."""
    release = made_release(kind=kind, n_items=200, dim=16, half_life_days=half_life_days)
    late = np.random.default_rng(6).choice([0.0, 5e6], p=[0.9, 0.1], size=300)
    events = [Event(user="u", item=f"i{n}", kind="imported", time=float(n), received=1.7e9) for n in range(5)]
    for event, seconds in zip(random_events(300, n_items=200, seed=4), late, strict=True):
        events.append(event._replace(kind="buy", time=event.time - seconds))
    last: dict[str, float] = {}
    for event in events:
        last[event.item] = max(event.time, last.get(event.item, 0.0))
    newest = max(last, key=last.__getitem__)
    events.append(Event(user="u", item=newest, kind="dislike", time=1.8e9))
    history, settings = UserHistory(), FeedbackSettings()
    equations = build_equations(release, history)
    for event in events:
        change = history.apply(event, settings)
        if change is not None:
            equations.update(change, history)

    rows = {release.row_of[item]: time for item, time in last.items() if item in release.row_of and item != newest}
    times = [MISSING_TIME if time < EARLIEST else round(time * 1e9) for _, time in sorted(rows.items())]
    assert MISSING_TIME in times
    one = sparse.csr_matrix((np.ones(len(rows)), ([0] * len(rows), sorted(rows))), shape=(1, release.n_items))
    how = FoldIn(
        kind=kind, unobserved_weight=release.unobserved_weight, regularization=release.regularization,
        half_life_days=half_life_days,
    )  # fmt: skip
    train = histories_of(one, signals=Signals(time=torch.tensor(times)))
    tables = (torch.from_numpy(table.astype(np.float64)) for table in (release.vectors, release.weights))
    vectors, weights = tables
    expected = fold_in_of_training(vectors, train, weights, how=how)[0].numpy()
    np.testing.assert_allclose(equations.solve(now=0.0), expected, rtol=1e-5, atol=1e-7)
    fresh = build_equations(release, build_history(events, settings))
    np.testing.assert_allclose(fresh.solve(now=0.0), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("half_life", [{"half_life": 2.0}, {"half_life_days": 30.0}])
def test_the_half_life_of_a_models_file_is_that_of_the_version_that_is_served(tmp_path, half_life):
    release, how = made_release(kind="projection"), FoldIn(kind="projection", **half_life)
    catalogue = Catalogue(item_ids=id_array(release.item_ids))
    catalogue.save(tmp_path / "catalogue.parquet")
    model = ItemEmbeddings(
        vectors=torch.from_numpy(release.vectors), bias=torch.from_numpy(release.bias),
        history_weights=torch.from_numpy(release.weights), fold_in=how, catalogue_hash=catalogue.content_hash,
    )  # fmt: skip
    save_item_embeddings(model, tmp_path / "model.safetensors")
    version = pack(tmp_path / "model.safetensors", tmp_path / "catalogue.parquet", tmp_path / "service")
    found = read_packed_model(tmp_path / "service" / "versions" / version[:DIGITS])
    assert (found.half_life, found.half_life_days) == (how.half_life, how.half_life_days)


def test_what_is_left_after_a_dislike_is_not_what_rounding_left_of_it():
    """Of two events sixty half-lives apart the newer, which weighs 2^60 times as much, is taken out again."""
    release, settings = made_release(kind="projection"), FeedbackSettings(half_life_days=1.0)
    old = Event(user="u", item="i3", kind="buy", time=1.7e9)
    new = Event(user="u", item="i8", kind="buy", time=1.7e9 + 60 * 86_400.0)
    expected = build_equations(release, build_history([old], settings)).solve(now=0.0)
    for known in ([], [old], [old, new]):
        history = build_history(known, settings)
        equations = build_equations(release, history)
        for event in [*[e for e in (old, new) if e not in known], new._replace(kind="dislike")]:
            equations.update(history.apply(event, settings), history)
        np.testing.assert_allclose(equations.solve(now=0.0), expected, rtol=1e-6)


def test_a_session_gives_the_vector_of_training_with_a_half_life():
    release = made_release(kind="projection", half_life=2.0)
    session = ["i5", "i9", "i2", "i5", "i40"]
    history = build_history(
        [Event(user="u", item=item, kind="view", time=0.0) for item in session], FeedbackSettings()
    )
    found = build_equations(release, history).solve(now=0.0)
    # i5 counts where it was last; as an event it keeps its place, so i9 and i2 are as old as they were seen.
    ages = {"i9": 3, "i2": 2, "i5": 1, "i40": 0}
    rows = [release.row_of[item] for item in ages]
    weights = np.array([2.0 ** (-age / 2.0) for age in ages.values()]) * release.weights[rows]
    np.testing.assert_allclose(found, weights @ release.vectors[rows] / np.linalg.norm(weights), rtol=1e-5)
    explained = explain(release, history, 7, now=0.0)
    newest = release.row_of["i40"]
    share = dict(zip(explained.rows.tolist(), explained.parts.tolist(), strict=True))[newest]
    direct = weights[-1] * release.vectors[newest] @ release.vectors[7] / np.linalg.norm(weights)
    np.testing.assert_allclose(share, direct, rtol=1e-5)
