"""What one extra brings is not needed by what needs the other one only, see docs/adr/0045."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import torch
from light_service import answer_of_service

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.models.items import FoldIn, ItemEmbeddings, save_item_embeddings
from recsys_fed.versions import _EXTRAS

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-c", "from recsys_fed.cli import main; main()"]
# Read by Python at its start, so that child processes, too, cannot import what is not installed.
ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def without(extra, folder):
    """The environment of a process that finds no module of an extra."""
    names = {module for module, brought_by in _EXTRAS.items() if brought_by == extra}
    (folder / "sitecustomize.py").write_text(ABSENT.format(names=names))
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def save_run(folder, *, n_items=20):
    catalogue = Catalogue(item_ids=[str(number) for number in range(1, n_items + 1)])
    model = ItemEmbeddings(
        vectors=torch.randn(n_items, 4, generator=torch.Generator().manual_seed(1)),
        bias=torch.arange(n_items) / 100,
        history_weights=torch.ones(n_items),
        fold_in=FoldIn(kind="ridge", unobserved_weight=0.1),
        catalogue_hash=catalogue.content_hash,
    )
    folder.mkdir()
    catalogue.save(folder / "catalogue.parquet")
    save_item_embeddings(model, folder / "item_embeddings.safetensors")
    return folder


def test_a_service_starts_and_answers_without_anything_that_trains(tmp_path):
    environment = without("train", tmp_path)
    items = answer_of_service(COMMAND, save_run(tmp_path / "run"), tmp_path / "serving", environment=environment)
    assert len(items) == 3 and not {"1", "2"} & set(items)


def test_a_command_says_which_extra_it_needs(tmp_path):
    done = subprocess.run(
        [*COMMAND, "simulate"], env=without("train", tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert 'pip install "recsys-fed[train]"' in done.stderr and "Traceback" not in done.stderr


def test_the_extras_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {
        extra: {re.match(r"[\w.-]+", line)[0].replace("-", "_") for line in lines}
        for extra, lines in project["optional-dependencies"].items()
    }
    named = {library: extra for extra in ("train", "serving") for library in extras[extra]}
    assert named == {library: extra for library, extra in _EXTRAS.items() if extra in ("train", "serving")}
    # Libraries whose package is called otherwise than what is imported of it: those that are installed here.
    packages = packages_distributions()
    for library, extra in _EXTRAS.items():
        found = {package.replace("-", "_") for package in packages.get(library, [library])}
        assert found & extras[extra], (library, extra)
    base = {re.match(r"[\w.-]+", line)[0] for line in project["dependencies"]}
    assert not base & {"torch", "flwr", "opacus", "fastapi"}
