"""The command line: the only place of h5zarr that prints, draws progress and chooses an exit code.

Data goes to stdout, everything else to stderr. What a verb needs is imported when it runs: --help needs
neither h5py nor zarr.
"""

from __future__ import annotations

import os

import click

from h5zarr.cli.combine import combine_verb
from h5zarr.cli.completion import completion_verb
from h5zarr.cli.convert import convert_verb
from h5zarr.cli.inspect import inspect_verb
from h5zarr.cli.rename import rename_verb
from h5zarr.cli.validate import validate_verb
from h5zarr.cli.verbs import Verbs
from h5zarr.cli.versions import show_versions

__all__ = ["main"]


_EXAMPLES = """
\b
Examples:
  h5zarr inspect file.nc
  h5zarr convert file.nc -o file.json
  h5zarr validate file.json

h5zarr COMMAND --help tells more.
"""


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXAMPLES)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=show_versions,
    help="Show the versions of h5zarr and of what it stands on, and exit.",
)
def main() -> None:
    """Make HDF5 and netCDF-4 files readable as Zarr v3, without copying them.

    Data go to stdout, everything else to stderr. Exit codes: 0 done; 1 done, but not everything is
    equal or can be expressed; 2 could not be done.
    """
    # What Icechunk logs, it raises too; on stderr, its lines would break progress bars.
    os.environ.setdefault("ICECHUNK_NO_LOGS", "1")


for _verb in (inspect_verb, convert_verb, validate_verb, combine_verb, rename_verb, completion_verb):
    main.add_command(_verb)
