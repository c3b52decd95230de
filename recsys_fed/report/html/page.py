"""What a page is made of, as data, and its HTML.

A page works from disk and without scripts, in light and dark, on paper and at 390 pixels; every chart has a text
alternative and its figures as a table.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from recsys_fed.errors import ConfigurationError

_TEMPLATE, _STYLE = "page.html.j2", "page.css"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table: the first column names the row; `numeric` columns (from 0) are set flush right."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if any(len(row) != len(self.header) for row in self.rows):
            raise ConfigurationError(f"Expected rows of {len(self.header)} cells in the table {self.caption!r}.")


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture: its SVG, what it shows in a sentence, and the figures behind it."""

    title: str
    alternative: str
    svg: Markup
    figures: Table


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A short statement that stands out: good, bad, or neither."""

    text: str
    mood: str = "plain"


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page, in this order: verdicts, paragraphs, charts, tables, details that are folded away."""

    anchor: str
    title: str
    verdicts: Sequence[Verdict] = ()
    paragraphs: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    folded: Sequence[Table] = ()


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole page."""

    title: str
    lead: str
    sections: Sequence[Section] = field(default_factory=tuple)


def render(page: Page) -> str:
    """The page as HTML. All texts are escaped; only SVG of `charts` goes in as it is.

    Raises:
        ConfigurationError: two sections have one anchor.
    """
    anchors = [section.anchor for section in page.sections]
    if len(set(anchors)) < len(anchors):
        raise ConfigurationError(f"Expected sections with anchors of their own, got {anchors}.")
    folder = files("recsys_fed.report.html")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(folder.joinpath(_TEMPLATE).read_text(encoding="utf-8"))
    style = Markup(folder.joinpath(_STYLE).read_text(encoding="utf-8"))  # noqa: S704  (a file of ours)
    return template.render(page=page, style=style)
