from dataclasses import replace

import pandas as pd
import pytest

from recsys_fed.data import locate
from recsys_fed.data.locate import open_dataset
from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError

RATINGS = "1::661::5::978300760\n2::661::4::978298413\n"


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A machine without data and without network: a working folder, and a home for the cache."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(locate, "REPOSITORY", tmp_path / "work")
    nowhere = replace(locate.MOVIELENS_1M, url="http://127.0.0.1:9/ml-1m.zip", connect_timeout=2.0)
    monkeypatch.setattr(locate, "MOVIELENS_1M", nowhere)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("RECSYS_FED_CACHE", str(tmp_path / "cache"))
    for name in ("RECSYS_FED_DATA", "RECSYS_FED_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def _published(folder):
    folder.mkdir(parents=True)
    (folder / "ratings.dat").write_text(RATINGS)


def _with_splits(folder):
    folder.mkdir(parents=True)
    columns = {"user_id": [1, 1], "movie_id": [5, 6], "rating": 3, "time_rank": [0, 1]}
    pd.DataFrame({**columns, "random90_test": [False, True]}).to_parquet(folder / "ratings.parquet")


@pytest.mark.parametrize("offline", [False, True])
def test_with_nothing_at_all_the_generator_is_said_in_one_line(world, monkeypatch, offline):
    if offline:
        monkeypatch.setenv("RECSYS_FED_OFFLINE", "1")
    said = []
    dataset = open_dataset(say=said.append)
    assert dataset.name == "generated"
    assert dataset.catalogue.n_items == 3_000
    # Offline nothing is tried, so that nothing is said of a download.
    assert len(said) == (1 if offline else 2)
    assert said[-1] == dataset.note
    assert "going on with generated interactions" in dataset.note
    assert "\n" not in dataset.note
    assert ("RECSYS_FED_OFFLINE=1" in dataset.note) == offline


def test_the_shared_folder_is_found_with_its_split(world):
    _with_splits(world / "shared" / "data" / "ml-1m")
    assert open_dataset().is_test.tolist() == [False, True]
    assert open_dataset("ml-1m").is_test is None
    assert open_dataset("ml-1m#random90").is_test.tolist() == [False, True]


def test_the_cache_comes_before_the_shared_folder_unless_it_lacks_the_split(world):
    _published(world / "cache" / "ml-1m")
    _with_splits(world / "shared" / "data" / "ml-1m")
    assert open_dataset().interactions.n_users == 2
    assert open_dataset("ml-1m#random90").interactions.n_users == 1


def test_the_environment_names_a_data_set_or_a_folder_of_them(world, monkeypatch):
    _published(world / "cache" / "ml-1m")
    _with_splits(world / "mine" / "ml-1m")
    for value in ("mine", "mine/ml-1m#random90"):
        monkeypatch.setenv("RECSYS_FED_DATA", str(world / value))
        assert open_dataset().is_test.tolist() == [False, True]
    monkeypatch.setenv("RECSYS_FED_DATA", str(world / "absent"))
    with pytest.raises(DataNotFoundError, match="absent"):
        open_dataset()


def test_the_cache_can_be_an_argument(world):
    _published(world / "elsewhere" / "ml-1m")
    assert open_dataset("ml-1m", cache=world / "elsewhere").interactions.n_users == 2


def test_what_is_asked_for_and_absent_is_an_error_and_never_generated(world):
    with pytest.raises(DataNotFoundError, match=r"'ml-1m'\. Tried: .*cache.*127.0.0.1:9"):
        open_dataset("ml-1m", say=lambda _: None)
    with pytest.raises(DataNotFoundError, match=r"'ml-100k'\. Tried: .*shared.*Names: ml-1m"):
        open_dataset("ml-100k")
    with pytest.raises(DataNotFoundError, match=r"'some/file.csv'\. Tried: some/file.csv"):
        open_dataset("some/file.csv")
    with pytest.raises(DataFormatError, match="it is none"):
        open_dataset(str(world))


def test_a_path_with_a_split_and_columns(world):
    _with_splits(world / "work" / "set")
    assert open_dataset("set#random90").is_test.tolist() == [False, True]
    (world / "work" / "odd#name.csv").write_text("a,b\n1,2\n")
    assert open_dataset("odd#name.csv", columns={"user": "a", "item": "b"}).name == "odd#name"
    with pytest.raises(ConfigurationError, match="got 'other'"):
        open_dataset("set#other")


def test_the_generator_takes_its_sizes_from_the_name(world):
    dataset = open_dataset("generated:users=20,items=10,interactions=3,groups=2,seed=4")
    assert (dataset.interactions.n_users, dataset.catalogue.n_items) == (20, 10)
    assert len({entry[0] for entry in dataset.catalogue.categories}) == 2


@pytest.mark.parametrize("spec", ["generated:size=3", "generated:users", "generated:users=-1", "generated:users=1.5"])
def test_a_wrong_size_is_refused(world, spec):
    with pytest.raises(ConfigurationError, match=r"KEY of users, items, interactions, groups, views, seed"):
        open_dataset(spec)


def test_the_real_folder_is_found_with_its_split(real, world):
    folder = real("ml-1m")
    (world / "shared").mkdir()
    (world / "shared" / "data").symlink_to(folder.parent)
    assert int(open_dataset().is_test.sum()) == 99_892
    assert open_dataset("ultragcn").catalogue.n_items == 3_043
