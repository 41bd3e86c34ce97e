"""What is in a file or in references, laid out for people: groups with their rows, and notes (pure)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from h5zarr.errors import Problem
from h5zarr.text import printable

_NAME_TITLE = "path"

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of the table, beside the first one, which holds the paths."""

    title: str
    """Its heading."""
    is_number: bool = False
    """Whether it is aligned at the right."""
    rank: int = 0
    """The higher, the sooner a narrow terminal leaves it out; 0: never."""
    can_be_cut: bool = False
    """Whether a narrow terminal may show the beginning of its cells only."""
    sign: str = ""
    """What stands between it and the column before, on a terminal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A dataset or array."""

    path: str
    """Absolute path."""
    cells: tuple[str, ...]
    """What stands in each column."""
    is_lost: bool = False
    """Whether it is left out, in whole or in part."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Branch:
    """A group and the rows directly below it."""

    path: str
    """Absolute path."""
    rows: tuple[Row, ...]
    """Its datasets or arrays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One entry of a note."""

    text: str
    """What it says."""
    remedy: str = ""
    """What can be done about it."""
    is_command: bool = False
    """Whether it is a shell command, which must not be broken into lines."""

    def __str__(self) -> str:
        return printable(f"{self.text}; {self.remedy}" if self.remedy else self.text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """Something below the table."""

    title: str
    """Its heading."""
    entries: tuple[Entry, ...]
    """What it lists."""
    is_warning: bool = False
    """Whether it tells of a loss."""
    hanging: int = 2
    """How far the further lines of an entry are indented, on a terminal (characters)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outline:
    """What is in a file or in references."""

    location: str
    """Path or URL."""
    facts: tuple[str, ...]
    """A few words each."""
    columns: tuple[Column, ...]
    """The columns of the table."""
    branches: tuple[Branch, ...]
    """The groups, parents first."""
    notes: tuple[Note, ...]
    """What stands below the table; those without entries are not shown."""

    def lines(self) -> list[str]:
        """Return it as plain text: a heading, an aligned table, and the notes."""
        return [
            ", ".join([printable(self.location), *self.facts]),
            "",
            *_aligned(self.columns, self._table()),
            *(line for note in self.notes for line in _note_lines(note)),
        ]

    def _table(self) -> list[tuple[str, ...]]:
        table = [(_NAME_TITLE, *(column.title for column in self.columns))]
        for branch in self.branches:
            table.append((branch.path.rstrip("/") + "/",))
            table += [(row.path, *row.cells) for row in branch.rows]
        return table


def branches_of(
    groups: Iterable[str], members: Iterable[T], row_of: Callable[[T], Row]
) -> tuple[Branch, ...]:
    """Return groups with the rows of their members.

    Parameters
    ----------
    groups
        Absolute paths, parents first.
    members
        Datasets or arrays, in the order to show.
    row_of
        Makes the row of one.
    """
    below: dict[str, list[Row]] = {group: [] for group in groups}
    for row in map(row_of, members):
        below.setdefault(parent(row.path), []).append(row)
    return tuple(Branch(path=path, rows=tuple(rows)) for path, rows in below.items())


def parent(path: str) -> str:
    """Return the path of the group that an absolute path stands in."""
    return path.rpartition("/")[0] or "/"


def problem_entries(problems: Iterable[Problem]) -> tuple[Entry, ...]:
    """Return the entries of problems."""
    return tuple(
        Entry(text=str(problem).removesuffix(f"; {problem.remedy}"), remedy=problem.remedy)
        for problem in problems
    )


def times(extents: Iterable[object]) -> str:
    """Return extents in one line, such as ``10 x 7``."""
    return " x ".join(map(str, extents))


def _note_lines(note: Note) -> list[str]:
    return ["", f"{note.title}:", *(f"  {entry}" for entry in note.entries)] if note.entries else []


def _aligned(columns: Sequence[Column], table: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the lines of a table; columns without any content but their title are left out."""
    are_numbers = [False, *(column.is_number for column in columns)]
    texts = itertools.zip_longest(*(map(printable, cells) for cells in table), fillvalue="")
    shown = [
        _align(column, is_number)
        for column, is_number in zip(texts, are_numbers, strict=True)
        if any(column[1:])
    ]
    return ["  ".join(cells).rstrip() for cells in zip(*shown, strict=True)]


def _align(column: tuple[str, ...], is_number: bool) -> list[str]:
    width = max(map(len, column))
    return [cell.rjust(width) if is_number else cell.ljust(width) for cell in column]
