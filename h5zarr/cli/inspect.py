"""The verb `inspect`."""

from __future__ import annotations

from typing import Any

import click

from h5zarr.cli.completion import complete_path
from h5zarr.cli.options import as_json, debug, html, quiet, scanning
from h5zarr.cli.terminal import print_json, print_outline, progress_bar, refuse_two_on_stdout, write_html
from h5zarr.cli.verbs import EXIT_DONE, EXIT_INCOMPLETE, Verb

_EXAMPLES = """
\b
Examples:
  h5zarr inspect file.nc
  h5zarr inspect s3://bucket/file.h5 -S anon=true --io
  h5zarr inspect file.nc --html file.html
  h5zarr inspect file.json
  h5zarr inspect file.nc --json | jq '.datasets[].path'
"""


@click.command("inspect", cls=Verb, epilog=_EXAMPLES)
@click.argument("source", metavar="INPUT", shell_complete=complete_path)
@click.option(
    "--io",
    is_flag=True,
    help="Tell also what INPUT costs to read over a network, and what would make it cost less.",
)
@as_json
@html
@scanning
@quiet
@debug
def inspect_verb(source: str, as_json: bool, html: str | None, quiet: bool, **options: Any) -> int:
    """Show what is in INPUT, and what of it cannot be expressed.

    INPUT is the path or fsspec URL of an HDF5 or netCDF-4 file, or of references (.json, .parq,
    .icechunk). Terminals get a coloured tree, files and pipes plain text.
    """
    refuse_two_on_stdout(html, as_json)
    from h5zarr.inspection import inspect

    with progress_bar("Scanning", quiet=quiet) as progress:
        inspection = inspect(source, progress=progress, **options)
    if html is not None:
        write_html(html, inspection)
    if as_json:
        print_json(inspection.to_json())
    elif html is None:
        print_outline(inspection.outline())
    return EXIT_INCOMPLETE if inspection.problems else EXIT_DONE
