"""The verb `rename`."""

from __future__ import annotations

from typing import Any

import click

from h5zarr.cli.completion import complete_path
from h5zarr.cli.convert import finish, named
from h5zarr.cli.options import debug, quiet, storage_option, writing
from h5zarr.cli.verbs import Verb

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
    help="Path or URL to write, - is stdout.",
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

    conversion = rename(references, named(out, options["format"]), **options)
    return finish(out, conversion, quiet=quiet)
