"""House rules that no linter knows, checked by `make check`: sizes of files and functions, names, paths."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LONGEST_FILE, LONGEST_FUNCTION = 500, 60
REFUSED_NAMES = {"utils.py", "helpers.py", "common.py"}
# Paths of one machine, and words that say that something is not finished.
REFUSED_TEXT = re.compile("|".join(["/" + "work/", "/" + "root/", "/" + "home/[a-z]", "TO" + "DO", "FIX" + "ME"]))
TEXT_SUFFIXES = {".py", ".md", ".toml", ".sh", ".yml", ".txt", ""}


def main() -> int:
    """Print every breach; the exit code is 1 if there is one."""
    breaches = [line for path in tracked() for line in breaches_of(path)]
    sys.stdout.write("".join(f"{line}\n" for line in breaches))
    return int(bool(breaches))


def tracked() -> list[Path]:
    """Files that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]


def breaches_of(path: Path) -> Iterator[str]:
    """Every breach of one file, as a line."""
    name = path.relative_to(ROOT)
    if path.name in REFUSED_NAMES:
        yield f"{name}: a file's name is the noun that it defines"
    if path.suffix not in TEXT_SUFFIXES:
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        if REFUSED_TEXT.search(line):
            yield f"{name}:{number}: a path of one machine, or something unfinished"
    if path.suffix == ".py":
        if text.count("\n") > LONGEST_FILE:
            yield f"{name}: longer than {LONGEST_FILE} lines"
        tree = ast.parse(text)
        yield from long_functions(name, tree)
        if name.parts[0] != "tests":
            yield from others_internals(name, tree)


def long_functions(name: Path, tree: ast.AST) -> Iterator[str]:
    """Functions beyond the limit, decorators and docstring included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > LONGEST_FUNCTION:
                yield f"{name}:{node.lineno}: {node.name} has {length} lines, {LONGEST_FUNCTION} are allowed"


def others_internals(name: Path, tree: ast.AST) -> Iterator[str]:
    """Imports of `_module` or `_name` from another room (`recsys_fed.ledger` is one): only its tests may."""
    here = list(name.with_suffix("").parts[:2])
    for node in ast.walk(tree):
        imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported = [f"{node.module}.{alias.name}" for alias in node.names]
        for path in imported:
            parts = path.split(".")
            ours = parts[0] in {"recsys_fed", "server", "client", "simulations"} and parts[:2] != here
            if ours and any(re.match("_[^_]", part) for part in parts):
                yield f"{name}:{node.lineno}: {path} is internal to {'.'.join(parts[:2])}"


if __name__ == "__main__":
    sys.exit(main())
