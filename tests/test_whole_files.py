"""Files that are there whole or not at all, and settings that are refused in the same words at every door."""

import stat

import pytest
from failing_disk import FailingDisk, failing

from recsys_fed.config import read_toml
from recsys_fed.deployment.federation import read_federation
from recsys_fed.errors import ConfigurationError
from recsys_fed.files import OWNER_ONLY, append_lines, whole_file, write_whole
from recsys_fed.serving.settings import read_serving_settings
from recsys_fed.silo.settings import read_silo_settings
from recsys_fed.trainers.registry import make_trainer


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    write_whole(path, "old")
    with pytest.raises(KeyError), whole_file(path) as file:
        file.write(b"half")
        assert path.read_text() == "old"
        raise KeyError
    assert (path.read_text(), [one.name for one in tmp_path.iterdir()]) == ("old", ["file"])
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_new_file_takes_no_others_place_and_is_its_owners(tmp_path):
    path = tmp_path / "key"
    write_whole(path, "first", mode=OWNER_ONLY, new=True)
    with pytest.raises(FileExistsError):
        write_whole(path, "second", mode=OWNER_ONLY, new=True)
    assert path.read_text() == "first"
    assert stat.S_IMODE(path.stat().st_mode) == OWNER_ONLY
    assert [one.name for one in tmp_path.iterdir()] == ["key"]


def test_lines_are_added_whole_or_not_at_all(tmp_path):
    path = tmp_path / "lines"
    append_lines(path, "one\n", mode=OWNER_ONLY)
    for number, lost in ((2, "half of it is written"), (3, "it is written, and not known to be on the disk")):
        disk = FailingDisk(tmp_path, number=number)
        with failing(disk), pytest.raises(OSError, match="lines"):
            append_lines(path, "two\nthree\n")
        assert disk.failed, lost
        assert path.read_text() == "one\n", lost
    assert stat.S_IMODE(path.stat().st_mode) == OWNER_ONLY


DATA = '\n[data]\npath = "x.csv"\n'
DOORS = {
    "scenario": (read_toml, "silo = 3", "", "silos"),
    "federation": (read_federation, '[federation]\nadress = "x"', "[federation]\ninsecure = 1", "address"),
    "agreed": (read_federation, "[training]\nepsilonn = 1.0", '[training]\nepsilon = "1"', "epsilon"),
    "silo": (read_silo_settings, f'[silo]\nname = "a"\nrooster = "x"{DATA}', f"[silo]\nname = 1{DATA}", "roster"),
    "serving": (read_serving_settings, "[api]\nprot = 1", '[api]\nport = "1"', "port"),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_refuses_in_the_same_words(door, tmp_path):
    read, unknown, _, meant = DOORS[door]
    path = tmp_path / "settings.toml"
    path.write_text(unknown)
    with pytest.raises(ConfigurationError, match=rf"a key of .*, got '\w+', which nothing reads. Is it '{meant}'"):
        read(path)


@pytest.mark.parametrize("door", ["federation", "agreed", "silo", "serving"])
def test_every_door_says_which_type_it_expects(door, tmp_path):
    read, _, wrong, _ = DOORS[door]
    path = tmp_path / "settings.toml"
    path.write_text(wrong)
    with pytest.raises(ConfigurationError, match=r"Expected [\w-]+ of type \w+.*, got .* \(\w+\)"):
        read(path)


def test_settings_of_a_trainer_are_a_door_too():
    with pytest.raises(ConfigurationError, match=r"key of \[dp-sgd\], got 'los', which nothing reads. Is it 'loss'"):
        make_trainer("dp-sgd", {"los": "bpr"})
    with pytest.raises(ConfigurationError, match=r"local-steps of type int in \[dp-sgd\], got 'many' \(str\)"):
        make_trainer("dp-sgd", {"local-steps": "many"})
