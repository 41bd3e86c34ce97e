"""The verb `convert`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from h5zarr.cli.options import debug, quiet, scanning, translating
from h5zarr.cli.terminal import progress_bar
from h5zarr.cli.verbs import EXIT_DONE, EXIT_INCOMPLETE, Verb, tell, tell_all
from h5zarr.text import count

if TYPE_CHECKING:
    from h5zarr.converter import Conversion

_STDOUT = "-"


@click.command("convert", cls=Verb)
@click.argument("source", metavar="INPUT")
@click.option(
    "-o", "--output", "out", required=True, metavar="OUT", help="Path or URL to write; - is stdout."
)
@scanning
@translating
@quiet
@debug
def convert_verb(source: str, out: str, quiet: bool, **options: Any) -> int:
    """Write references to the chunks of INPUT, a path or an fsspec URL."""
    from h5zarr.converter import convert

    to_stdout = out == _STDOUT
    with progress_bar("Scanning", quiet=quiet) as progress:
        conversion = convert(source, None if to_stdout else out, progress=progress, **options)
    if to_stdout:
        for block in conversion.blocks():
            click.echo(block, nl=False)
    if not quiet:
        tell_all(conversion.problems)
        tell(_conversion_summary("stdout" if to_stdout else out, conversion))
    return EXIT_INCOMPLETE if conversion.problems else EXIT_DONE


def _conversion_summary(out: str, conversion: Conversion) -> str:
    arrays = list(conversion.hierarchy.arrays())
    referenced = sum(len(array.manifest.grid_position) for array in arrays)
    inline = sum(len(array.manifest.inline) for array in arrays)
    text = f"{out}: {count(len(arrays), 'array')}, {count(referenced, 'reference')}, {inline:,} inline"
    if not conversion.problems:
        return text
    return f"{text}; {count(len(conversion.problems), 'problem')}, listed above and in the references"
