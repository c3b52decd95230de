"""What `make check` says to a forbidden import, put into every package of a copy of the code."""

import itertools
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from recsys_fed.trainers.pooling import (
    pool_counts,
    pool_products,
    product,
    products_of,
    released_table,
    remap,
)

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LAYERS, WALL, POOLING, *EXTRAS = SETTINGS["tool"]["importlinter"]["contracts"]
LIBRARIES = sorted(SETTINGS["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"])
BESIDE = Path(sys.executable).parent


@pytest.fixture
def copy(tmp_path):
    """The code and its settings, as `make check` sees them."""
    for name in SETTINGS["tool"]["importlinter"]["root_packages"]:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def checked(copy, *command):
    """Exit code and output, without the breaks that the terminal's width makes."""
    done = subprocess.run(
        [BESIDE / command[0], *command[1:]], cwd=copy, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(copy), "PATH": "", "COLUMNS": "400"},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_no_package_may_take_up_a_library_in_a_new_file(copy):
    packages = sorted(
        path.parent for path in copy.rglob("__init__.py") if "benchmarks" not in path.relative_to(copy).parts
    )
    assert len(packages) > 20
    for package in packages:
        (package / "taken_up.py").write_text("".join(f"import {library}\n" for library in LIBRARIES))
    code, output = checked(
        copy, "ruff", "check", "--no-cache", "--output-format", "concise", "--select", "TID251", "."
    )
    refused = set(re.findall(r"^(\S+?):\d+:\d+: TID251 `(\w+)` is banned", output, flags=re.MULTILINE))
    expected = {
        (str((package / "taken_up.py").relative_to(copy)), library) for package in packages for library in LIBRARIES
    }
    assert code != 0 and refused == expected


def test_no_package_may_import_what_stands_above_it(copy):
    rows = [[name.strip() for name in re.split("[|:]", row)] for row in LAYERS["layers"]]
    expected = set()
    for above, row in itertools.pairwise(rows):
        for name in row:
            add_import(copy, name, above[0])
            expected.add((name, above[0]))
    for row, text in zip(rows, LAYERS["layers"], strict=True):
        if "|" in text:  # packages of one row know nothing of each other
            for one, other in itertools.combinations(row, 2):
                add_import(copy, one, other)
                expected.add((one, other))
    code, output = checked(copy, "lint-imports", "--no-cache", "--contract", "layers")
    found = set(re.findall(r"^(\S+) is not allowed to import (\S+):", output, flags=re.MULTILINE))
    assert code != 0 and expected <= found, expected - found


def test_neither_the_server_nor_a_trainer_gets_through_the_silo_wall(copy):
    expected = set()
    for source in WALL["source_modules"]:
        for target in WALL["forbidden_modules"]:
            add_import(copy, source, target)
            expected.add((source, target))
    code, output = checked(copy, "lint-imports", "--no-cache", "--contract", "wall")
    found = set(re.findall(r"^(\S+) is not allowed to import (\S+):", output, flags=re.MULTILINE))
    assert code != 0 and expected <= found, expected - found


def test_pooling_reaches_no_room_that_holds_a_history(copy):
    for target in POOLING["forbidden_modules"]:
        add_import(copy, "recsys_fed.trainers.pooling", target)
    code, output = checked(copy, "lint-imports", "--no-cache", "--contract", "pooling")
    found = set(
        re.findall(r"^recsys_fed\.trainers\.pooling is not allowed to import (\S+):", output, flags=re.MULTILINE)
    )
    assert code != 0 and found == set(POOLING["forbidden_modules"])
    # Its functions take released tables, numbers and what prepares a released table; of these no type holds a user.
    types = {
        str(annotation)
        for one in (pool_counts, pool_products, product, products_of, released_table, remap)
        for annotation in one.__annotations__.values()
    }
    assert not [name for name in types if "Histor" in name or "Interactions" in name]


@pytest.mark.parametrize(
    ("contract", "source", "through"),
    [
        (EXTRAS[0], "recsys_fed.serving.server", "recsys_fed.serving.paths"),
        (EXTRAS[1], "recsys_fed.serving", "recsys_fed.models.item_file"),
        (EXTRAS[2], "recsys_fed.simulation", "recsys_fed.models.items"),
    ],
    ids=["light-server", "serving-extra", "train-extra"],
)
def test_what_an_extra_brings_is_not_taken_up_by_what_does_without_even_at_second_hand(
    contract, source, through, copy
):
    for target in contract["forbidden_modules"]:
        add_import(copy, through, target)
    code, output = checked(copy, "lint-imports", "--no-cache", "--contract", contract["id"])
    found = set(re.findall(rf"^{source} is not allowed to import (\S+):", output, flags=re.MULTILINE))
    assert code != 0 and found == set(contract["forbidden_modules"])


def add_import(copy, module, target):
    """Add an import to a module, or to the first file of a package."""
    path = copy.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    path.write_text(path.read_text(encoding="utf-8") + f"\nimport {target}\n", encoding="utf-8")
