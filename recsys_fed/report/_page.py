"""What a report is made of, as data, and its HTML; a terminal shows the same data, see `console`.

Charts are SVG inside a page, and pictures files, by matplotlib.

A page works from disk and without scripts, in light and dark, on paper and at 390 pixels; every chart has a text
alternative and its figures as a table. Charts are drawn in stand-ins for colours, which become variables of the
page's style. Sizes are for a phone's width, so that text stays readable; on wider screens charts stand side by side.
Matplotlib comes with `recsys-fed[plots]`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from markupsafe import Markup

from recsys_fed.errors import ConfigurationError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
import io
import re
from collections.abc import Callable

from markupsafe import escape

_TEMPLATE, _STYLE = "page.html.j2", "page.css"


class Cell(str):
    """A cell that a page shows in another way: with a link, as the target of one, or marked as a blank to fill in."""

    href: str
    anchor: str
    blank: bool

    def __new__(cls, text: str, *, href: str = "", anchor: str = "", blank: bool = False) -> Self:
        cell = super().__new__(cls, text)
        cell.href, cell.anchor, cell.blank = href, anchor, blank
        return cell


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table: the first `keys` columns name the row; `numeric` columns (from 0) are set flush right.

    Of `texts`, cells stand below each other where there is little room.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()
    keys: int = 1
    texts: bool = False

    def __post_init__(self) -> None:
        if any(len(row) != len(self.header) for row in self.rows):
            raise ConfigurationError(f"Expected rows of {len(self.header)} cells in the table {self.caption!r}.")


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture: how it is drawn into axes, what it shows in a sentence, and the figures behind it."""

    title: str
    alternative: str
    draw: "Callable[[Any], None]"
    figures: Table

    @property
    def svg(self) -> Markup:
        """An SVG element; raises ConfigurationError where matplotlib is not installed."""
        return _svg(self.draw, self.title, self.alternative)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A short statement that stands out: good, bad, or neither."""

    text: str
    mood: str = "plain"


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a report, in this order: verdicts, paragraphs, charts, tables, details that are folded away.

    Each record is turned into sections once; a page shows all of it, a terminal neither charts nor details.
    """

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
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415  (a terminal needs none)

    folder = files("recsys_fed.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(folder.joinpath(_TEMPLATE).read_text(encoding="utf-8"))
    style = Markup(folder.joinpath(_STYLE).read_text(encoding="utf-8"))  # noqa: S704  (a file of ours)
    return template.render(page=page, style=style)


def number(value: Any, digits: int = 3) -> str:
    """A figure with so many decimals; "inf" and missing ones as they are."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return "inf" if math.isinf(value) else f"{value:,.{digits}f}"


def interval(figure: dict[str, float], digits: int = 2) -> str:
    """A figure with its limits."""
    return f"{figure['value']:.{digits}f} ({figure['low']:.{digits}f} to {figure['high']:.{digits}f})"


def finite(value: Any) -> float | None:
    """A number that a chart can hold, or None."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def new_picture(width: float, height: float) -> "Figure":
    """A figure of so many inches, at 150 dots an inch.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  (optional, and slow to import)
    except ImportError as error:
        raise ConfigurationError(
            'Expected matplotlib for a picture: pip install "recsys-fed[plots]". Without --plot there is a table.'
        ) from error
    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def write_picture(figure: "Figure", path: Path, *, kind: str | None = "png") -> None:
    """Write a figure, as a PNG or, without a kind, as what the path's ending says.

    Raises:
        ConfigurationError: it cannot be written.
    """
    try:
        figure.savefig(path, format=kind)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"Cannot write a picture to {path}: {error}.") from error


# Stand-ins, none of which matplotlib uses by itself.
_COLOURS = {"#010203": "--ink", "#040506": "--soft", "#070809": "--line"} | {
    f"#0a0b{10 + n:02x}": f"--s{n}" for n in range(1, 5)
}
INK, SOFT, LINE, *SERIES = _COLOURS
_SIZE = (4.6, 3.0)
_MARKERS = ("o", "s", "^", "D")
_DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points of one kind: name, x, y, and optionally the limits of each y."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def line_chart(
    title: str,
    alternative: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    limit: float | None = None,
    steps: bool = False,
    figures: Table,
) -> Chart:
    """Lines with markers (colour is never the only difference), and perhaps a limit."""

    def draw(axes: Any) -> None:
        for number, one in enumerate(series):
            style = {"color": SERIES[number % 4], "marker": _MARKERS[number % 4], "linestyle": _DASHES[number % 4]}
            if one.low is not None and one.high is not None:
                spread = [
                    [y - low for y, low in zip(one.y, one.low, strict=True)],
                    [high - y for y, high in zip(one.y, one.high, strict=True)],
                ]
                axes.errorbar(one.x, one.y, yerr=spread, label=one.name, capsize=3, markersize=4, **style)
            else:
                how = "steps-post" if steps else "default"
                axes.plot(one.x, one.y, label=one.name, markersize=4, drawstyle=how, **style)
        if limit is not None:
            axes.axhline(limit, color=INK, linewidth=1.2, linestyle=(0, (1, 1)), label="limit")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.set_ylim(bottom=0)
        if len(series) > 1 or limit is not None:
            axes.legend(frameon=False, fontsize=8, labelcolor=INK)

    return Chart(title=title, alternative=alternative, draw=draw, figures=figures)


def interval_chart(
    title: str,
    alternative: str,
    rows: Sequence[tuple[str, float, float, float]],
    *,
    x_label: str,
    marks: Sequence[tuple[str, float]] = (),
    start: float | None = 0.0,
    figures: Table,
) -> Chart:
    """A row each: a value with its interval (equal limits draw the point alone), and vertical marks."""

    def draw(axes: Any) -> None:
        places = list(range(len(rows)))[::-1]
        for place, (_, value, low, high) in zip(places, rows, strict=True):
            axes.plot([low, high], [place, place], color=SERIES[0], linewidth=2)
            axes.plot([value], [place], color=SERIES[0], marker="o", markersize=6)
        for number, (name, value) in enumerate(marks):
            colour, dash = SERIES[1 + number % 3], _DASHES[1 + number % 3]
            axes.axvline(value, color=colour, linewidth=1.4, linestyle=dash, label=name)
        axes.set_yticks(places, [name for name, *_ in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(x_label)
        if start is not None:
            axes.set_xlim(left=start)
        if marks:
            axes.legend(
                frameon=False,
                fontsize=8,
                labelcolor=INK,
                loc="lower center",
                bbox_to_anchor=(0.5, 1.0),
                ncols=min(2, len(marks)),
            )

    return Chart(title=title, alternative=alternative, draw=draw, figures=figures)


def _svg(draw: Callable[[Any], None], title: str, alternative: str) -> Markup:
    """An SVG element with a title and a description of its own.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context  # noqa: PLC0415  (optional, and slow to import)
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            'Expected matplotlib for the charts of a report: pip install "recsys-fed[plots]".'
        ) from error
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": title,
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": SOFT,
        "xtick.color": SOFT,
        "ytick.color": SOFT,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
    }
    with rc_context(settings):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        axes.grid(visible=True, color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _apply_theme(written.getvalue(), title, alternative)


def _apply_theme(svg: str, title: str, alternative: str) -> Markup:
    """The svg element alone: variables for colours, ids of its own, a title and a description."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for colour, name in _COLOURS.items():
        svg = svg.replace(colour, f"var({name})")
    own = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    svg = re.sub(r'\bid="', f'id="{own}-', svg)
    svg = svg.replace("url(#", f"url(#{own}-").replace('href="#', f'href="#{own}-')
    head = f'<title id="{own}-name">{escape(title)}</title><desc id="{own}-says">{escape(alternative)}</desc>'
    opened, rest = svg.split(">", 1)
    opened = re.sub(r' (width|height)="[^"]*"', "", opened)
    label = f'role="img" aria-labelledby="{own}-name {own}-says"'
    return Markup(f"{opened} {label}>{head}{rest}")  # noqa: S704  (drawn here; texts are escaped by matplotlib)
