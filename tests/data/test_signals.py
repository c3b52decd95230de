"""Histories carry each user's order, times, values and weights as the rows have them, wherever they are held."""

from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ordered_rows import CATALOGUE, Row, chosen_users, interactions_of, ordered, read_back, rows
from scipy import sparse

from recsys_fed.data.interactions import MISSING_TIME
from recsys_fed.data.silo import histories, signals_of, silo_dataset, ties_of
from recsys_fed.data.split import leave_last_out
from recsys_fed.errors import ConfigurationError, DataError, DataFormatError
from recsys_fed.federation import distributed
from recsys_fed.models import histories as user_blocks
from recsys_fed.models import stored_histories as stored_module
from recsys_fed.models.histories import NOTHING, Histories, Signals, histories_of
from recsys_fed.models.stored_histories import ITEMS, STARTS, HistoryWriter, stored_histories

ALL = frozenset({"order", "time", "value", "weight"})
many = settings(max_examples=60, deadline=None)


def in_memory(some: list[Row], reads=ALL) -> Histories:
    silo = silo_dataset(interactions_of(some), CATALOGUE, reads=reads)
    return histories_of(silo.histories, signals=silo.signals)


@contextmanager
def on_disk(some: list[Row], reads=ALL, *, block: int = 3):
    """The same users, appended in two parts, and read in small blocks."""
    interactions = interactions_of(some)
    matrix = histories(interactions, CATALOGUE)
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_module, "block_size", lambda n_items: block)
        with HistoryWriter(Path(folder)) as writer:
            for users in (np.arange(2), np.arange(2, interactions.n_users)):
                part = matrix[users]
                writer.append(part, signals_of(part, interactions, CATALOGUE, reads=reads, users=users))
        yield stored_histories(Path(folder), n_items=matrix.shape[1])


@many
@given(rows())
def test_every_user_has_the_order_and_signals_of_the_rows(some):
    assert read_back(in_memory(some)) == ordered(some)
    with on_disk(some) as stored:
        assert read_back(stored) == ordered(some)


@many
@given(rows())
def test_blocks_in_memory_carry_them(some):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(user_blocks, "_LEAST_INTERACTIONS", 3)
        patch.setattr(user_blocks, "_INTERACTIONS_AN_ITEM", 0)
        assert read_back(in_memory(some)) == ordered(some)


@many
@given(rows(), st.data())
def test_a_subset_and_a_range_of_users_keep_theirs(some, data):
    chosen, (first, last) = chosen_users(data), sorted(data.draw(st.tuples(*2 * [st.integers(0, 6)])))
    expected = [user for user, kept in zip(ordered(some), chosen.tolist(), strict=True) if kept]
    within = [user for user, kept in zip(ordered(some)[first:last], chosen.tolist()[first:last], strict=True) if kept]
    memory = in_memory(some)
    assert read_back(memory.subset(chosen)) == expected
    assert read_back(memory.block(first, last).subset(chosen[first:last])) == within
    with on_disk(some) as stored:
        assert read_back(stored.subset(chosen)) == expected
        assert read_back(stored.subset(chosen).users_from(first, last)) == within


@many
@given(rows(), st.sets(st.integers(0, 6), min_size=1), st.data())
def test_over_a_head_ranks_are_those_among_what_is_left(some, head, data):
    head, chosen = sorted(head), chosen_users(data)
    left = [[(head.index(one[0]), *one[1:]) for one in user if one[0] in head] for user in ordered(some)]
    memory = in_memory(some)
    assert read_back(memory.restricted(torch.tensor(head))) == left
    some_left = [user for user, kept in zip(left, chosen.tolist(), strict=True) if kept]
    assert read_back(memory.restricted(torch.tensor(head)).subset(chosen)) == some_left
    assert read_back(memory.subset(chosen).restricted(torch.tensor(head))) == some_left


@many
@given(rows(), st.integers(1, 4))
def test_ranks_of_a_silo_hold_all_users_once(some, processes):
    with on_disk(some) as stored, pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "_several_ranks", lambda: True)
        patch.setattr(distributed.distributed, "get_world_size", lambda: processes)
        for held in (stored, in_memory(some)):
            found = []
            for rank in range(processes):
                patch.setattr(distributed.distributed, "get_rank", lambda rank=rank: rank)
                found += read_back(distributed.share_of(held))
            assert found == ordered(some)


@many
@given(rows(), st.data())
def test_what_is_held_out_leaves_no_gap(some, data):
    mask = np.array([data.draw(st.booleans()) for _ in some], dtype=bool)
    interactions, left = interactions_of(some), [row for row, kept in zip(some, mask, strict=True) if kept]
    silo = silo_dataset(interactions, CATALOGUE, mask, reads=ALL)
    assert read_back(histories_of(silo.histories, signals=silo.signals)) == ordered(left)
    # Of all interactions the matrix says which are in it.
    signals = signals_of(silo.histories, interactions, CATALOGUE, reads=ALL)
    assert read_back(histories_of(silo.histories, signals=signals)) == ordered(left)


@many
@given(rows())
def test_the_last_in_order_is_what_leave_last_out_holds_out(some):
    known = [row for row in some if row.item in map(int, CATALOGUE.item_ids)]
    interactions = interactions_of(known)
    held = histories(interactions, CATALOGUE, leave_last_out(interactions))
    expected = [[user[-1][0]] if len(user) > 1 else [] for user in ordered(known)]
    assert [row.indices.tolist() for row in held] == expected


@many
@given(rows())
def test_ties_are_neighbours_at_one_time(some):
    known = ordered(some)
    expected = sum(one[1] is not None and one[1] == other[1] for user in known for one, other in pairwise(user))
    assert silo_dataset(interactions_of(some), CATALOGUE, reads=ALL).ties == expected
    assert silo_dataset(interactions_of(some, time=None), CATALOGUE, reads=ALL).ties is None
    assert ties_of(interactions_of(some, time=None)) is None


def test_file_order_breaks_ties_and_no_time_is_before_all_times():
    some = [Row(0, 3, 5, 1.0, 1.0), Row(0, 0, None, 1.0, 1.0), Row(0, 7, 5, 1.0, 1.0), Row(0, 8, 0, 1.0, 1.0)]
    some.append(Row(0, 5, None, None, 1.0))
    items = [int(CATALOGUE.item_ids[one[0]]) for one in read_back(in_memory(some))[0]]
    assert items == [0, 5, 8, 3, 7]
    assert silo_dataset(interactions_of(some), CATALOGUE, reads=ALL).ties == 1


SOME = [Row(0, 3, 5, 1.0, 0.5), Row(0, 0, None, 2.0, 1.0), Row(1, 7, 2, None, 1.0)]


@pytest.mark.parametrize(
    ("reads", "there"),
    [
        (NOTHING, None),
        ({"order"}, {"rank"}),
        ({"time"}, {"time"}),
        ({"value", "weight"}, {"value", "weight"}),
        (ALL, {"rank", "time", "value", "weight"}),
    ],
)
def test_only_what_is_read_is_held_and_written(reads, there):
    memory = in_memory(SOME, frozenset(reads))
    assert (memory.signals and set(memory.signals.columns())) == there
    with on_disk(SOME, frozenset(reads)) as stored:
        assert set(stored.signals) == (there or set())
        files = {path.name.partition(".")[0] for path in stored.folder.iterdir()}
        assert files == {"items", "starts"} | (there or set())
        for block in stored.blocks():
            assert (block.signals and set(block.signals.columns())) == there


def test_items_and_starts_are_the_same_bytes_with_signals_and_without():
    with on_disk(SOME) as stored, on_disk(SOME, NOTHING) as plain:
        for name in (ITEMS, STARTS):
            assert (stored.folder / name).read_bytes() == (plain.folder / name).read_bytes()
    memory, plain = in_memory(SOME), in_memory(SOME, NOTHING)
    assert torch.equal(memory.items, plain.items)
    assert torch.equal(memory.starts, plain.starts)


def test_what_the_data_has_no_column_of_is_no_signal():
    bare = interactions_of(SOME, time=None, value=None, weight=None)
    assert silo_dataset(bare, CATALOGUE, reads=ALL).signals is None
    with pytest.raises(ConfigurationError, match="no times"):
        _ = histories_of(histories(bare, CATALOGUE)).by_order
    rated = silo_dataset(interactions_of(SOME, time=None), CATALOGUE, reads=ALL).signals
    assert set(rated.columns()) == {"value", "weight"}
    # A column without a single time is a column all the same: whether there is an order follows from no row.
    timeless = np.full(len(SOME), MISSING_TIME)
    assert silo_dataset(interactions_of(SOME, time=timeless), CATALOGUE, reads=ALL).signals.rank.tolist() == [0, 1, 0]


def test_positions_give_an_order_and_no_times():
    signals = silo_dataset(interactions_of(SOME, clock=False), CATALOGUE, reads=ALL).signals
    assert set(signals.columns()) == {"rank", "value", "weight"}


def test_silos_without_users_and_users_without_interactions():
    assert read_back(in_memory([])) == [[]] * 6
    with on_disk([]) as stored:
        assert read_back(stored) == [[]] * 6
    empty = silo_dataset(interactions_of([], n_users=0), CATALOGUE, reads=ALL)
    assert empty.signals.rank.shape == (0,)
    assert empty.ties == 0


def test_a_pair_that_comes_twice_and_entries_without_an_interaction_are_refused():
    twice = interactions_of([SOME[0], SOME[0]])
    with pytest.raises(DataError, match="once"):
        silo_dataset(twice, CATALOGUE, reads=ALL)
    whole = histories(interactions_of(SOME), CATALOGUE)
    with pytest.raises(DataError, match="once"):
        signals_of(whole, interactions_of(SOME[:2]), CATALOGUE, reads=ALL)


def test_signals_beside_other_entries_are_refused(tmp_path):
    silo = silo_dataset(interactions_of(SOME), CATALOGUE, reads=ALL)
    with pytest.raises(ConfigurationError, match="signals"):
        histories_of(silo.histories[:1], signals=silo.signals)
    unsorted = sparse.csr_matrix((np.ones(2), np.array([1, 0]), np.array([0, 2])), shape=(1, 2))
    with pytest.raises(ConfigurationError, match="sorted"):
        histories_of(unsorted, signals=Signals(rank=torch.tensor([0, 1])))
    with pytest.raises(ConfigurationError, match="same interactions"):
        Signals(rank=torch.zeros(2), time=torch.zeros(3))
    with pytest.raises(ConfigurationError, match="rank"), HistoryWriter(tmp_path) as writer:
        writer.append(silo.histories, silo.signals)
        writer.append(silo.histories)


def test_files_of_different_writings_and_damaged_ones_are_refused():
    with on_disk(SOME) as stored:
        content = (stored.folder / "rank.i32").read_bytes()
        (stored.folder / "rank.i32").write_bytes(content[:-4])
        with pytest.raises(DataFormatError, match="rank"):
            stored_histories(stored.folder, n_items=7)
        (stored.folder / "rank.i32").write_bytes(b"\x07\0\0\0" * (len(content) // 4))
        with pytest.raises(DataFormatError, match="order"):
            list(stored_histories(stored.folder, n_items=7).blocks())
        (stored.folder / "time.i64").write_bytes(b"")
        with pytest.raises(DataFormatError, match="time"):
            stored_histories(stored.folder, n_items=7)


def test_writing_anew_without_signals_removes_those_of_before():
    with on_disk(SOME) as stored:
        with HistoryWriter(stored.folder) as writer:
            writer.append(histories(interactions_of(SOME), CATALOGUE))
        assert {path.name for path in stored.folder.iterdir()} == {ITEMS, STARTS}
        assert all(block.signals is None for block in stored_histories(stored.folder, n_items=7).blocks())
