"""The pages of docs/learn as programs: the files that they name, their commands, and what they show of the output.

A page holds four kinds of fenced blocks: `python` with a title is a file of that name; `bash` are commands, one a
line, which fail where `|| true` ends them and nowhere else; `bash title="Install"` makes an environment; `text` after
`bash` are lines of what it prints, where "..." leaves some out.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LEARN = Path(__file__).resolve().parents[1] / "docs" / "learn"
INSTALL = "Install"
_BLOCK = re.compile(r'^```(\w+)(?: title="([\w.]+)")?\n(.*?)^```$', flags=re.MULTILINE | re.DOTALL)
# Frames of tables; keys, hashes and names of runs; dates: another run has others.
_OF_ONE_RUN = re.compile(r"[─-╿]+|\b[0-9a-f]{12,}\b|\d{4}-\d\d-\d\d[T ][\d:.]+Z?")
_FIGURE = re.compile(r"(\d+\.\d+)")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block of a page."""

    language: str
    title: str
    text: str

    def commands(self) -> list[str]:
        """Its commands, each on one line."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line and not line.startswith("#")]


def blocks_of(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Block(language=language, title=title, text=text) for language, title, text in found]


def lines_not_printed(shown: str, printed: str) -> list[str]:
    """Lines that a page shows and that its commands did not print, in this order.

    Figures with a decimal point may differ by a fiftieth: sums in floating point depend on the processor.
    """
    rest: Iterator[str] = iter(printed.splitlines())
    return [line for line in shown.splitlines() if line != "..." and not any(_agree(line, other) for other in rest)]


def _agree(shown: str, printed: str) -> bool:
    left, right = _parts(shown), _parts(printed)
    return len(left) == len(right) and all(map(_alike, left, right))


def _parts(line: str) -> list[str]:
    return _FIGURE.split(" ".join(_OF_ONE_RUN.sub(" ", line).split()))


def _alike(shown: str, printed: str) -> bool:
    if _FIGURE.fullmatch(shown) and _FIGURE.fullmatch(printed):
        return math.isclose(float(shown), float(printed), rel_tol=0.02, abs_tol=0.02)
    return shown == printed
