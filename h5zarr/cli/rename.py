"""The verb `rename`."""

from __future__ import annotations

from typing import Any

import click

from h5zarr.cli.completion import complete_path
from h5zarr.cli.convert import tell_conversion
from h5zarr.cli.options import debug, quiet, storage_option, writing
from h5zarr.cli.verbs import EXIT_DONE, EXIT_INCOMPLETE, Verb

_EXAMPLES = """
\b
Examples:
  h5zarr rename a.json -o b.json --to file:///data s3://bucket/data
"""


@click.command("rename", cls=Verb, epilog=_EXAMPLES)
@click.argument("references", metavar="REFERENCES", shell_complete=complete_path)
@click.option(
    "-o",
    "--output",
    "out",
    required=True,
    metavar="OUT",
    shell_complete=complete_path,
    help="Path or URL to write.",
)
@click.option(
    "--to",
    "renames",
    type=(str, str),
    multiple=True,
    required=True,
    metavar="OLD NEW",
    help="URLs below OLD are below NEW now. Repeatable.",
)
@storage_option
@writing
@quiet
@debug
def rename_verb(references: str, out: str, quiet: bool, **options: Any) -> int:
    """Point REFERENCES to where the data are now."""
    from h5zarr.renamer import rename

    conversion = rename(references, out, **options)
    tell_conversion(out, conversion, quiet=quiet)
    return EXIT_INCOMPLETE if conversion.problems else EXIT_DONE
