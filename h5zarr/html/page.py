"""A report as one self-contained HTML page: what can stand on it, and its rendering."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from h5zarr.text import printable

if TYPE_CHECKING:
    import jinja2

Facts = tuple[tuple[str, str], ...]
"""Labels, each with a value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A rectangle of a picture, in its own units."""

    x: float
    """Left edge."""
    y: float
    """Upper edge."""
    width: float
    """Width."""
    height: float
    """Height."""
    color: str
    """Name of the style sheet's colour."""
    title: str
    """What it stands for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureText:
    """A text of a picture, centred at its place."""

    x: float
    """Its middle."""
    y: float
    """Its base line."""
    text: str
    """The text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A drawing."""

    width: float
    """Width, in its own units."""
    height: float
    """Height, in its own units."""
    bars: tuple[Bar, ...]
    """Its rectangles."""
    label: str
    """What it shows, for those who do not see it."""
    caption: str
    """What stands below it."""
    texts: tuple[PictureText, ...] = ()
    """Its texts."""
    legend: Facts = ()
    """Names of colours, each with its meaning."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of a table."""

    title: str
    """Its heading."""
    is_number: bool = False
    """Whether it is aligned at the right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A cell of a table."""

    text: str
    """What stands in it."""
    share: float | None = None
    """A share to draw behind it (percent); None: nothing is drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table; the first cell of a row names it."""

    title: str
    """What it is about."""
    columns: tuple[Column, ...]
    """Its columns."""
    rows: tuple[tuple[Cell, ...], ...]
    """Its rows."""
    note: str = ""
    """A word beside the title."""
    folded: bool | None = None
    """Whether it can be folded and is; None: it cannot."""
    is_path: bool = False
    """Whether the title is a path."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of the page."""

    anchor: str
    """Its identifier on the page."""
    title: str
    """Its heading."""
    texts: tuple[str, ...] = ()
    """Paragraphs."""
    commands: tuple[str, ...] = ()
    """Command lines."""
    facts: Facts = ()
    """Numbers."""
    map: Picture | None = None
    """A picture with a legend."""
    histogram: Picture | None = None
    """A picture with texts."""
    tables: tuple[Table, ...] = ()
    """Tables."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A page."""

    title: str
    """Its heading."""
    location: str
    """What it is about: a path or URL."""
    verdict: str
    """What matters most, in a sentence."""
    good: bool
    """Whether that is good."""
    facts: Facts
    """Numbers."""
    sections: tuple[Section, ...]
    """Its parts."""


def table(title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table of texts."""
    return Table(
        title=title,
        columns=tuple(columns),
        rows=tuple(tuple(Cell(text=printable(text)) for text in row) for row in rows),
    )


def render(page: Page, *, version: str) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    page
        The page.
    version
        Version of h5zarr, which it names.
    """
    text: str = _template().render(page=page, version=version)
    # Names that are not UTF-8 come as surrogates, which no file takes.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@functools.cache
def _template() -> jinja2.Template:
    # Only reports need it.
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("h5zarr.html", ""), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html")
