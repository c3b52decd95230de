"""Print the figures of the house: `python tests/house_figures.py`. What may not grow is held to in house_rules.py."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("recsys_fed", "server", "client")


def python_files() -> list[Path]:
    """Files of the three packages that are under version control."""
    listed = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.splitlines() if name.endswith(".py")]


def import_lines(tree: ast.Module) -> int:
    """Lines that imports take."""
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))
    return sum((node.end_lineno or node.lineno) - node.lineno + 1 for node in found)


def public_names(tree: ast.Module) -> list[str]:
    """Functions and classes of a module that do not begin with an underscore."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


def figures() -> dict[str, object]:
    """Files, lines, the median and the largest file, public names of recsys_fed, the share of imports."""
    files = python_files()
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    lines = {path: len(text.splitlines()) for path, text in texts.items()}
    largest = max(lines, key=lines.__getitem__)
    named = {path: public_names(tree) for path, tree in trees.items() if path.is_relative_to(ROOT / "recsys_fed")}
    names = [name for found in named.values() for name in found]
    open_modules = [path for path in named if not path.name.startswith("_") or path.name == "__init__.py"]
    twice = [name for name, count in Counter(names).items() if count > 1]
    return {
        "files": len(files),
        "lines": sum(lines.values()),
        "median lines of a file": median(lines.values()),
        "largest file": f"{largest.relative_to(ROOT)} ({lines[largest]})",
        "public names of recsys_fed": sum(len(named[path]) for path in open_modules),
        "names without an underscore, internal modules (_x.py) counted too": len(names),
        "of these, names that stand in several modules": len(twice),
        "share of lines that are imports": f"{sum(map(import_lines, trees.values())) / sum(lines.values()):.1%}",
    }


if __name__ == "__main__":
    for name, value in figures().items():
        sys.stdout.write(f"{name}: {value}\n")
