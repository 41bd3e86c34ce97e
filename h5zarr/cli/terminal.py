"""What is drawn on a terminal, and what goes to stdout."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

import click

from h5zarr.errors import OutputError

if TYPE_CHECKING:
    from h5zarr.outline import Outline

Progress = Callable[[int, int], None]


def is_drawn_on(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal that can be drawn on; one that is closed is None."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def is_coloured(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal that shows colours, and nobody asked for none.

    See https://no-color.org.
    """
    return is_drawn_on(stream) and not os.environ.get("NO_COLOR")


def print_blocks(blocks: Iterable[str | bytes]) -> None:
    """Write data to stdout.

    Raises
    ------
    OutputError
        It is closed, or cannot be written.
    """
    if sys.stdout is None:
        raise OutputError("stdout: is closed; open it, or name a file")
    try:
        for block in blocks:
            click.echo(block, nl=False)
    except BrokenPipeError:  # who reads it has enough
        raise
    except OSError as error:
        raise OutputError(f"stdout: cannot be written: {error.strerror or error}") from error


def print_json(document: Any) -> None:
    """Write a document to stdout."""
    print_blocks([json.dumps(document, indent=2), "\n"])


def print_lines(lines: Iterable[str]) -> None:
    """Write lines to stdout; what its encoding does not have is escaped."""
    encoding = "utf-8" if sys.stdout is None else sys.stdout.encoding
    print_blocks([f"{line}\n".encode(encoding, "backslashreplace") for line in lines])


def print_outline(outline: Outline) -> None:
    """Write what is in a file or in references to stdout: a coloured tree on a terminal, else plain text."""
    if is_coloured(sys.stdout) and sys.stdout.encoding.lower() == "utf-8":
        # rich takes a tenth of a second to import.
        from h5zarr.cli.tree import print_tree

        print_tree(outline)
    else:
        print_lines(outline.lines())


def refuse_two_on_stdout(html: str | None, as_json: bool) -> None:
    """Refuse a page and JSON one after the other, which is neither."""
    if html == "-" and as_json:
        raise click.UsageError("--html - and --json both write to stdout; name a file for the page")


def write_html(out: str, result: Any, location: str = "") -> None:
    """Write a result as an HTML page to a path or URL; ``-`` is stdout."""
    from h5zarr.html.reports import report_html
    from h5zarr.output import write_whole

    text = report_html(result, location)
    if out == "-":
        print_blocks([text])
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
