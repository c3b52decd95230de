"""The site: every page is in its navigation, and every public name has an entry that says what to know."""

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from pathlib import Path

import pytest
from mkdocs.config import load_config

import recsys_fed

ROOT = Path(__file__).resolve().parents[1]
ENTRIES = [
    entry
    for page in sorted((ROOT / "docs" / "reference").glob("*.md"))
    for entry in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
]
# Packages that docs/api.md names as parts which are used by themselves.
PARTS = ("recsys_fed.privacy", "recsys_fed.federation.secure_aggregation", "recsys_fed.certificates")
ARRAY = re.compile(r"ndarray|NDArray|Tensor|csr_matrix|csr_array")
SHAPE = re.compile(r"\[[^\]]+\]|vector|matrix|array|entry|entries|shape")


def resolved(entry):
    """The module, class or function of an entry."""
    try:
        return importlib.import_module(entry)
    except ModuleNotFoundError:
        module, _, name = entry.rpartition(".")
        return getattr(importlib.import_module(module), name)


def described(entry):
    """Everything that the entry shows, with its dotted name: public functions, classes and methods."""
    thing = resolved(entry)
    if not inspect.ismodule(thing):
        yield from _with_methods(entry, thing)
        return
    for name, value in vars(thing).items():
        of_it = getattr(value, "__module__", None) == thing.__name__
        if not name.startswith("_") and of_it and (inspect.isclass(value) or inspect.isfunction(value)):
            yield from _with_methods(f"{entry}.{name}", value)


def _with_methods(name, thing):
    yield name, thing
    if inspect.isclass(thing):
        for method, value in vars(thing).items():
            function = getattr(value, "__func__", value)
            if not method.startswith("_") and inspect.isfunction(function):
                yield f"{name}.{method}", function


def text_of(name, thing):
    """The docstring, with those of the methods that it overrides: a reader sees both."""
    owner = resolved_owner(name)
    bases = owner.__mro__[1:] if inspect.isclass(owner) else ()
    overridden = [vars(base)[thing.__name__] for base in bases if thing.__name__ in vars(base)]
    return "\n".join(filter(None, (inspect.getdoc(one) for one in (thing, *overridden))))


def resolved_owner(name):
    """What a function is defined in: a class or a module."""
    return resolved(name.rpartition(".")[0])


def raised(function):
    """Errors of this project that the function's own lines raise."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    raising = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc is not None]
    called = [error.func if isinstance(error, ast.Call) else error for error in raising]
    return {error.id for error in called if isinstance(error, ast.Name) and error.id.endswith("Error")}


def test_the_navigation_holds_every_page():
    config = load_config(str(ROOT / "mkdocs.yml"))
    config = config.plugins.on_config(config) if not config["nav"] else config
    pages = set(re.findall(r"'([\w./-]+\.md)'", str(config["nav"])))
    assert pages == {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}


def test_every_public_name_has_an_entry():
    names = {f"recsys_fed.{home}.{name}" for name, home in recsys_fed._HOMES.items()}
    modules = {"recsys_fed.testing", "recsys_fed.extensions", "recsys_fed.errors", "recsys_fed.trainers.trainer"}
    for part in PARTS:
        package = importlib.import_module(part)
        found = pkgutil.walk_packages(package.__path__, f"{part}.")
        modules |= {module.name for module in found if not module.ispkg}
    assert set(recsys_fed._HOMES) == set(recsys_fed.__all__)
    assert names | modules == set(ENTRIES)
    assert len(ENTRIES) == len(set(ENTRIES))


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_says_shapes_and_errors(entry):
    lacking = []
    for name, thing in described(entry):
        text = text_of(name, thing)
        if not text:
            lacking.append(f"{name}: no docstring")
        if inspect.isfunction(thing):
            if ARRAY.search(str(inspect.signature(thing))) and not SHAPE.search(text):
                lacking.append(f"{name}: no shape")
            lacking += [f"{name}: {error} is not said" for error in sorted(raised(thing)) if error not in text]
    assert not lacking
