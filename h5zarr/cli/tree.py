"""What is in a file or in references as a coloured tree on a terminal, drawn with rich.

`rich.tree` with `rich.table` takes 17 seconds for 10,000 rows; aligned segments take 0.6.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style

from h5zarr.outline import Branch, Column, Entry, Note, Outline, Row, parent
from h5zarr.text import count, printable

_CELL_WIDTHS = (48, 32, 20)
"""Cells that may be cut have at most one of these (characters); the widest with which all fits is taken."""
_NARROWEST_NAMES = 24
_MOST_ENTRIES = 20
_ELLIPSIS = "…"
_GUIDES = {"branch": ("├─ ", "│  "), "last": ("└─ ", "   ")}

_PLAIN = Style()
_FAINT = Style(dim=True)
_TITLE = Style(bold=True)
_GROUP = Style(bold=True, color="blue")
_LOST = Style(bold=True, color="yellow")
_REMEDY = Style(color="green")
_STYLES = {
    "shape": Style(color="cyan"),
    "datatype": Style(color="green"),
    "data type": Style(color="green"),
    "layout": _FAINT,
    "ratio": _FAINT,
    "left out": _LOST,
}


def print_tree(outline: Outline) -> None:
    """Write an outline to stdout, as wide as the terminal.

    Parameters
    ----------
    outline
        What to show.
    """
    console = Console(highlight=False)
    segments = Segments(_segments(outline, console.width))
    console.print(segments, soft_wrap=True, end="")


def _segments(outline: Outline, width: int) -> Iterator[Segment]:
    yield Segment(printable(outline.location), _TITLE)
    yield Segment.line()
    yield Segment(", ".join(outline.facts), _FAINT)
    yield Segment.line()
    yield Segment.line()
    yield from _table(outline, width)
    for note in outline.notes:
        if note.entries:
            yield from _note(note, width)


# The tree ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """A line of the tree."""

    guide: str
    """What leads to the name."""
    name: str
    """Name of the group, dataset or array in the branch above."""
    row: Row | None
    """The dataset or array; None for a group."""


def _tree(branches: Sequence[Branch]) -> Iterator[_Line]:
    """Yield the lines of a tree; groups can be nested deeper than Python calls can."""
    below = _branches_below(branches)
    stack: list[tuple[Branch | Row, str, str, str]] = [(branches[0], "", "", "")] if branches else []
    while stack:
        member, above, guide, indent = stack.pop()
        name = printable(member.path[len(above) :].lstrip("/"))
        if isinstance(member, Row):
            yield _Line(guide=guide, name=name, row=member)
            continue
        yield _Line(guide=guide, name=f"{name.rstrip('/')}/", row=None)
        members: list[Branch | Row] = [*member.rows, *below[member.path]]
        for number in range(len(members), 0, -1):
            own, further = _GUIDES["last" if number == len(members) else "branch"]
            stack.append((members[number - 1], member.path, indent + own, indent + further))


def _branches_below(branches: Sequence[Branch]) -> dict[str, list[Branch]]:
    """Return the branches directly below each; those whose parent is not there are below the first."""
    below: dict[str, list[Branch]] = {branch.path: [] for branch in branches}
    for branch in branches[1:]:
        below.get(parent(branch.path), below[branches[0].path]).append(branch)
    return below


def _table(outline: Outline, width: int) -> Iterator[Segment]:
    lines = list(_tree(outline.branches))
    table = _fitted(outline.columns, lines, width)
    yield from table.header()
    for line in lines:
        yield from table.line(line)
    if table.hidden:
        hidden = f"(no room for {', '.join(table.hidden)}: widen the terminal, or use --json)"
        yield from _lines(_wrapped(hidden, width, ""), _FAINT)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shown:
    """A column that is shown."""

    column: Column
    """The column."""
    number: int
    """Which of a row's cells it shows."""
    width: int
    """Its width (characters)."""

    @property
    def separator(self) -> str:
        """What stands before it."""
        return f" {self.column.sign} " if self.column.sign else "  "

    @property
    def style(self) -> Style:
        """How it looks."""
        return _STYLES.get(self.column.title, _PLAIN)

    def cut(self, most: int) -> _Shown:
        """Return it not wider than so many characters, where its cells may be cut."""
        return replace(self, width=min(self.width, most)) if self.column.can_be_cut else self

    def fill(self, text: str) -> str:
        """Return a cell's text, cut or filled to the width."""
        missing = self.width - cell_len(text)
        if missing < 0:
            return set_cell_size(text, self.width - 1) + _ELLIPSIS
        return " " * missing + text if self.column.is_number else text + " " * missing


@dataclass(frozen=True, kw_only=True, slots=True)
class _Table:
    """The columns that fit beside the tree."""

    name_width: int
    """Width of the tree (characters); longer names have a line of their own."""
    columns: tuple[_Shown, ...]
    """The columns."""
    hidden: tuple[str, ...]
    """Titles of those that have no room."""

    def header(self) -> Iterator[Segment]:
        """Yield the line of the titles."""
        yield Segment(" " * self.name_width)
        for shown in self.columns:
            yield Segment(shown.separator + shown.fill(shown.column.title), _FAINT)
        yield Segment.line()

    def line(self, line: _Line) -> Iterator[Segment]:
        """Yield a line of the tree, with its cells."""
        yield Segment(line.guide, _FAINT)
        if line.row is None:
            yield Segment(line.name, _GROUP)
        else:
            yield Segment(line.name, _LOST if line.row.is_lost else _TITLE)
            yield from self._cells(line.row, line)
        yield Segment.line()

    def _cells(self, row: Row, line: _Line) -> Iterator[Segment]:
        room = self.name_width - cell_len(line.guide + line.name)
        if room < 0:
            continued = line.guide.replace("├─", "│ ").replace("└─", "  ")
            yield Segment.line()
            yield Segment(continued, _FAINT)
            room = self.name_width - cell_len(continued)
        yield Segment(" " * room)
        last = max(
            (number for number, shown in enumerate(self.columns) if row.cells[shown.number]), default=-1
        )
        for shown in self.columns[: last + 1]:
            yield Segment(shown.separator + shown.fill(printable(row.cells[shown.number])), shown.style)


def _fitted(columns: Sequence[Column], lines: Sequence[_Line], width: int) -> _Table:
    """Return the columns that fit: cells are cut first, then columns of the highest rank left out."""
    rows = [line.row for line in lines if line.row is not None]
    names = [cell_len(line.guide + line.name) for line in lines if line.row is not None]
    name_width = min(max(names, default=0), max(_NARROWEST_NAMES, width // 3))
    filled = [
        _Shown(column=column, number=number, width=max([len(column.title), *lengths]))
        for number, column in enumerate(columns)
        if any(lengths := [cell_len(printable(row.cells[number])) for row in rows])
    ]
    chosen = _chosen(filled, width - name_width)
    numbers = {shown.number for shown in chosen}
    hidden = tuple(shown.column.title for shown in filled if shown.number not in numbers)
    return _Table(name_width=name_width, columns=chosen, hidden=hidden)


def _chosen(filled: Sequence[_Shown], room: int) -> tuple[_Shown, ...]:
    """Return all columns, some of them cut, where they fit; else those of the lowest ranks that do."""
    for most in _CELL_WIDTHS:
        cut = [shown.cut(most) for shown in filled]
        if _width(cut) <= room:
            return tuple(cut)
    kept: list[_Shown] = []
    for shown in sorted(cut, key=lambda shown: shown.column.rank):
        if not shown.column.rank or _width([*kept, shown]) <= room:
            kept.append(shown)
    return tuple(sorted(kept, key=lambda shown: shown.number))


def _width(columns: Iterable[_Shown]) -> int:
    return sum(len(shown.separator) + shown.width for shown in columns)


# Notes ------------------------------------------------------------------------------------


def _note(note: Note, width: int) -> Iterator[Segment]:
    yield Segment.line()
    yield Segment(f"{note.title}:", _LOST if note.is_warning else _TITLE)
    yield Segment.line()
    shown = note.entries if note.is_warning else note.entries[:_MOST_ENTRIES]
    for entry in shown:
        yield from _entry(entry, width, note.hanging)
    if len(shown) < len(note.entries):
        yield Segment(f"  (and {count(len(note.entries) - len(shown), 'other')}: use --json)", _FAINT)
        yield Segment.line()


def _entry(entry: Entry, width: int, hanging: int) -> Iterator[Segment]:
    text = printable(entry.text)
    yield from _lines([f"  {text}"] if entry.is_command else _wrapped(text, width, "  ", hanging), _PLAIN)
    if entry.remedy:
        yield from _lines(_wrapped(printable(entry.remedy), width, "    → "), _REMEDY)


def _wrapped(text: str, width: int, indent: str, hanging: int = 2) -> list[str]:
    """Return lines; what has no blanks in it, such as a URL, is not broken."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=" " * (len(indent) + hanging),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _lines(lines: Iterable[str], style: Style) -> Iterator[Segment]:
    for line in lines:
        yield Segment(line, style)
        yield Segment.line()
