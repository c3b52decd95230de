import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_fed.data.silo import histories
from recsys_fed.data.sources import Request, read
from recsys_fed.errors import DataFormatError

lists = st.lists(st.lists(st.integers(0, 30), unique=True, max_size=6), min_size=1, max_size=8)


def _write(folder, train, test):
    folder.mkdir(exist_ok=True)
    for name, rows in (("train.txt", train), ("test.txt", test)):
        lines = [" ".join(map(str, [user, *items])) for user, items in enumerate(rows)]
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


@settings(max_examples=60, deadline=None)
@given(train=lists, data=st.data())
def test_lists_come_back_as_they_were_written(tmp_path_factory, train, data):
    test = [data.draw(st.lists(st.integers(31, 60), unique=True, max_size=3)) for _ in train]
    if not any(train + test):
        test[0] = [31]
    dataset = read(Request(path=_write(tmp_path_factory.mktemp("lists") / "x", train, test)))
    seen = {True: set(), False: set()}
    inter = dataset.interactions
    for user, item, is_test in zip(inter.user, inter.item, dataset.is_test, strict=True):
        seen[bool(is_test)].add((int(inter.user_ids[user]), int(inter.item_ids[item])))
    for rows, is_test in ((train, False), (test, True)):
        assert seen[is_test] == {(user, item) for user, items in enumerate(rows) for item in items}
    assert len(inter) == sum(map(len, train + test))
    items = [int(item) for item in dataset.catalogue.item_ids]
    assert items == sorted(items)


def test_a_pair_in_both_lists_is_in_test_only(tmp_path):
    dataset = read(Request(path=_write(tmp_path, [[1, 2]], [[2]])))
    assert dataset.is_test.tolist() == [False, True]
    assert [f.rule for f in dataset.report.findings] == ["exact duplicate"]


@pytest.mark.parametrize("bad", ["1 2 x", "1 -2", "1 2.5", f"1 {10**19}"])
def test_a_line_that_holds_something_else_is_named(tmp_path, bad):
    _write(tmp_path, [[1], [2]], [[3], []])
    (tmp_path / "test.txt").write_text(f"0 3\n\n{bad}\n")
    with pytest.raises(DataFormatError, match=r"whole numbers >= 0 in row 3 of .*test.txt"):
        read(Request(path=tmp_path))


def test_lists_without_any_item_are_refused(tmp_path):
    with pytest.raises(DataFormatError, match="none is left"):
        read(Request(path=_write(tmp_path, [[]], [[]])))


def test_the_published_split_gives_the_published_popularity_figures(real):
    dataset = read(Request(path=real("ml-1m/ultragcn")))
    train = histories(dataset.interactions, dataset.catalogue, ~dataset.is_test)
    test = histories(dataset.interactions, dataset.catalogue, dataset.is_test)
    assert (train.shape, train.nnz, test.nnz) == ((6_022, 3_043), 796_244, 99_455)
    score = np.tile(np.asarray(train.sum(axis=0)).ravel(), (train.shape[0], 1))
    score[train.nonzero()] = -np.inf
    top = np.argsort(-score, axis=1, kind="stable")[:, :20]
    hits = np.take_along_axis(test.toarray(), top, axis=1).sum(axis=1)
    relevant = np.asarray(test.sum(axis=1)).ravel()
    recall = (hits[relevant > 0] / relevant[relevant > 0]).mean()
    assert recall == pytest.approx(0.1161, abs=5e-4)


INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu1\ti1\t4.5\t881250949.0\nu2\ti1\t3\t9e8\n"
ITEM = "item_id:token\tmovie_title:token_seq\tclass:token_seq\ni1\tSome Title\tDrama War\ni2\tOther\tComedy\n"


@pytest.mark.parametrize("whole_folder", [True, False])
def test_atomic_files_are_read_with_their_items(tmp_path, whole_folder):
    (tmp_path / "small.inter").write_text(INTER)
    (tmp_path / "small.item").write_text(ITEM)
    dataset = read(Request(path=tmp_path if whole_folder else tmp_path / "small.inter"))
    assert dataset.name == "small"
    assert dataset.interactions.user_ids.tolist() == ["u1", "u2"]
    assert dataset.interactions.value.tolist() == [4.5, 3.0]
    assert (dataset.interactions.time // 10**9).tolist() == [881250949, 900000000]
    assert dataset.catalogue.titles == ("Some Title",)
    assert dataset.catalogue.categories == (("Drama", "War"),)


def test_atomic_files_without_items_or_values_are_fine(tmp_path):
    (tmp_path / "small.inter").write_text("item_id:token\tuser_id:token\na\tb\n")
    dataset = read(Request(path=tmp_path))
    assert dataset.interactions.item_ids.tolist() == ["a"]
    assert dataset.interactions.value is None
    assert dataset.catalogue.titles is None


@pytest.mark.parametrize(
    ("inter", "item", "message"),
    [
        ("user_id:token\tthing:token\n1\t2\n", ITEM, "a column for item in .*among them user_id"),
        (INTER, ITEM + "i3\tshort\n", r"3 fields in line 4 of .*small.item, got 2"),
    ],
)
def test_atomic_files_of_another_shape_are_named(tmp_path, inter, item, message):
    (tmp_path / "small.inter").write_text(inter)
    (tmp_path / "small.item").write_text(item)
    with pytest.raises(DataFormatError, match=message):
        read(Request(path=tmp_path))


def test_atomic_files_may_have_any_field_names(tmp_path):
    (tmp_path / "s.inter").write_text("who:token\twhat:token\thow:float\nu1\ti1\t4.5\n")
    (tmp_path / "s.item").write_text("what:token\tname:token_seq\ni1\tSome Title\n")
    dataset = read(Request(path=tmp_path, columns={"user": "who", "item": "what", "value": "how"}))
    assert dataset.interactions.value.tolist() == [4.5]
    assert dataset.catalogue.titles == ("Some Title",)
    (tmp_path / "s.item").write_text("other:token\tname:token_seq\ni1\tSome Title\n")
    assert read(Request(path=tmp_path, columns={"user": "who", "item": "what"})).catalogue.titles is None
