"""The verb `inspect`."""

from __future__ import annotations

from typing import Any

import click

from h5zarr.cli.options import as_json, debug, html, quiet, scanning
from h5zarr.cli.terminal import print_json, print_lines, progress_bar, write_html
from h5zarr.cli.verbs import EXIT_DONE, EXIT_INCOMPLETE, Verb


@click.command("inspect", cls=Verb)
@click.argument("source", metavar="INPUT")
@scanning
@as_json
@html
@quiet
@debug
def inspect_verb(source: str, as_json: bool, html: str | None, quiet: bool, **options: Any) -> int:
    """Show what is in INPUT, a path or an fsspec URL, and what of it references cannot express."""
    from h5zarr.inspection import inspect

    with progress_bar("Scanning", quiet=quiet) as progress:
        inspection = inspect(source, progress=progress, **options)
    if html is not None:
        write_html(html, inspection)
    elif as_json:
        print_json(inspection.to_json())
    else:
        print_lines(inspection.lines())
    return EXIT_INCOMPLETE if inspection.problems else EXIT_DONE
