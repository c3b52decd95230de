"""`recsys-fed app DIR`: a Flower app folder of one's own; in integration/test_other_environments.py nodes run it."""

import tomllib
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from recsys_fed.config import FederationConfig, SimulationConfig, parse
from recsys_fed.errors import ConfigurationError
from recsys_fed.settings_file import flatten
from recsys_fed.simulation.flower_engine import write_app

ROOT = Path(__file__).resolve().parents[2]


def tables(folder):
    return tomllib.loads((folder / "pyproject.toml").read_text())


def test_the_bundle_of_the_template_holds_the_apps_and_names_this_library(tmp_path):
    write_app(tmp_path / "shop")
    (tmp_path / "shop.fab").write_bytes(build_fab_from_disk(tmp_path / "shop"))
    bundle = zipfile.ZipFile(tmp_path / "shop.fab")
    for path in (*ROOT.glob("server/*.py"), *ROOT.glob("client/*.py")):
        assert bundle.read(path.relative_to(ROOT).as_posix()) == path.read_bytes()
    project = tomllib.loads(bundle.read("pyproject.toml").decode())["project"]
    version = tables(ROOT)["project"]["version"]
    assert (project["name"], project["dependencies"]) == ("shop", [f"recsys-fed[train]=={version}"])


def test_every_key_of_a_run_can_be_changed_and_the_first_run_needs_no_data(tmp_path):
    write_app(tmp_path / "shop")
    here, own = (flatten(tables(folder)["tool"]["flwr"]["app"]["config"]) for folder in (tmp_path / "shop", ROOT))
    assert here == own | {"data": "generated", "threads": 1}
    assert parse(SimulationConfig, here).data == "generated"
    assert parse(FederationConfig, here) == parse(FederationConfig, own | {"threads": 1})


@pytest.mark.parametrize("name", ["My Shop", "1shop", 'sh"op'])
def test_a_name_that_flower_does_not_take_is_refused(name, tmp_path):
    with pytest.raises(ConfigurationError, match="small letters"):
        write_app(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_files_is_left_alone(tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="has files"):
        write_app(tmp_path / "shop")
    assert [path.name for path in (tmp_path / "shop").iterdir()] == ["mine.txt"]
