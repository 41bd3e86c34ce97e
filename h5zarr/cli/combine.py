"""The verb `combine`."""

from __future__ import annotations

from typing import Any

import click

from h5zarr.cli.completion import complete_path
from h5zarr.cli.convert import finish, named
from h5zarr.cli.options import debug, jobs, quiet, storage_option, writing
from h5zarr.cli.terminal import progress_bar
from h5zarr.cli.verbs import Verb

_EXAMPLES = """
\b
Examples:
  h5zarr combine 2020/*.json -o 2020.parq --concat time
  h5zarr combine run_*.nc -o runs.json --new-dim run
  h5zarr combine 2021/*.json -o all.parq --concat time --append-to 2020.parq
"""


@click.command("combine", cls=Verb, epilog=_EXAMPLES)
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, shell_complete=complete_path)
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
    "--concat", multiple=True, metavar="DIM", help="Join along this dimension that files have. Repeatable."
)
@click.option("--new-dim", metavar="DIM", help="Join along a new dimension: each file is one place of it.")
@click.option(
    "--value",
    "values",
    multiple=True,
    metavar="TEXT",
    help="Of --new-dim: each file's coordinate. Repeatable.",
)
@click.option(
    "--data-var",
    "data_vars",
    multiple=True,
    metavar="PATTERN",
    help="Of --new-dim: paths of the arrays that get it, instead of all that are no coordinates.",
)
@click.option(
    "--order",
    type=click.Choice(["coordinate", "given"]),
    help="How files follow one another: by coordinate, where there is one, or as given.",
)
@click.option(
    "--compat",
    type=click.Choice(["identical", "first", "drop"]),
    default="identical",
    show_default=True,
    help="What becomes of arrays without a joined dimension.",
)
@click.option(
    "--rectilinear", is_flag=True, help="Allow chunks of different lengths, which zarr reads from 3.4 on."
)
@click.option(
    "--inline-limit",
    type=click.IntRange(min=0),
    default=2**20,
    show_default=True,
    metavar="BYTES",
    help="Coordinates, and arrays whose chunks do not fit, may stand in the references, each up to this.",
)
@click.option(
    "--append-to",
    metavar="RESULT",
    shell_complete=complete_path,
    help="Add the inputs to this combined result.",
)
@jobs
@storage_option
@writing
@quiet
@debug
def combine_verb(
    inputs: tuple[str, ...],
    out: str,
    values: tuple[str, ...],
    data_vars: tuple[str, ...],
    quiet: bool,
    **options: Any,
) -> int:
    """Join many INPUTs into references to all of them as one.

    An INPUT is the path or URL of references, or of an HDF5 or netCDF-4 file.
    """
    from h5zarr.combiner import combine

    with progress_bar("Combining", quiet=quiet, unit="files") as progress:
        conversion = combine(
            inputs,
            named(out, options["format"]),
            values=values or None,
            data_vars=data_vars or None,
            progress=progress,
            **options,
        )
    return finish(out, conversion, quiet=quiet)
