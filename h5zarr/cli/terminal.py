"""What is drawn on a terminal, and what goes to stdout."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from h5zarr.outline import Outline

Progress = Callable[[int, int], None]


def is_drawn_on(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that can be drawn on."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def is_coloured(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that shows colours, and nobody asked for none.

    See https://no-color.org.
    """
    return is_drawn_on(stream) and not os.environ.get("NO_COLOR")


def print_json(document: Any) -> None:
    """Write a document to stdout."""
    click.echo(json.dumps(document, indent=2))


def print_lines(lines: Iterable[str]) -> None:
    """Write lines to stdout; what its encoding does not have is escaped."""
    text = "\n".join(lines)
    click.echo(text.encode(sys.stdout.encoding, "backslashreplace"))


def print_outline(outline: Outline) -> None:
    """Write what is in a file or in references to stdout: a coloured tree on a terminal, else plain text."""
    if is_coloured(sys.stdout) and sys.stdout.encoding.lower() == "utf-8":
        # rich takes a tenth of a second to import.
        from h5zarr.cli.tree import print_tree

        print_tree(outline)
    else:
        print_lines(outline.lines())


def write_html(out: str, result: Any, location: str = "") -> None:
    """Write a result as an HTML page to a path or URL; ``-`` is stdout."""
    from h5zarr.html.reports import report_html
    from h5zarr.output import write_whole

    text = report_html(result, location)
    if out == "-":
        click.echo(text, nl=False)
    else:
        write_whole(out, [text.encode()], kind="HTML")


@contextlib.contextmanager
def progress_bar(label: str, *, quiet: bool, unit: str = "objects") -> Iterator[Progress | None]:
    """Give a function that draws a bar on stderr; None where nobody would see it.

    Parameters
    ----------
    label
        What is being done.
    quiet
        Whether to draw nothing.
    unit
        What is counted; ``bytes`` are shown as kB, MB and so on.
    """
    if quiet or not is_drawn_on(sys.stderr):
        yield None
        return
    from h5zarr.cli.progress import drawn_bar

    with drawn_bar(label, unit) as progress:
        yield progress
