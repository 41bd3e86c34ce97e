"""What is drawn on a terminal, and what goes to stdout."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import click

Progress = Callable[[int, int], None]

_SECONDS_BETWEEN_DRAWINGS = 0.1


def print_json(document: Any) -> None:
    """Write a document to stdout."""
    click.echo(json.dumps(document, indent=2))


def print_lines(lines: Iterable[str]) -> None:
    """Write lines to stdout; what its encoding does not have is escaped."""
    text = "\n".join(lines)
    click.echo(text.encode(sys.stdout.encoding, "backslashreplace"))


def write_html(out: str, result: Any, location: str = "") -> None:
    """Write a result as an HTML page to a path or URL; ``-`` is stdout."""
    from h5zarr.html_reports import report_html
    from h5zarr.output import write_whole

    text = report_html(result, location)
    if out == "-":
        click.echo(text, nl=False)
    else:
        write_whole(out, [text.encode()])


@contextlib.contextmanager
def progress_bar(label: str, *, quiet: bool) -> Iterator[Progress | None]:
    """Give a function that draws a bar on stderr; None where nobody would see it."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=1, label=label, file=sys.stderr) as bar:
        yield _Drawing(bar)


class _Drawing:
    """Draws a progress bar, but not more often than eyes can follow."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._next and done < total:
            return
        self._next = now + _SECONDS_BETWEEN_DRAWINGS
        self._bar.length = max(total, 1)
        self._bar.update(done - self._bar.pos)
