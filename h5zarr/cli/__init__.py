"""The command line: the only place of h5zarr that prints, draws progress and chooses an exit code.

Data goes to stdout, everything else to stderr. What a verb needs is imported when it runs: --help and
--version need neither h5py nor zarr.
"""

from __future__ import annotations

import click

from h5zarr.cli.convert import convert_verb
from h5zarr.cli.inspect import inspect_verb
from h5zarr.cli.validate import validate_verb
from h5zarr.cli.verbs import Verbs

__all__ = ["main"]


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="h5zarr", prog_name="h5zarr")
def main() -> None:
    """Make HDF5 and netCDF-4 files readable as Zarr v3, without copying them.

    Data go to stdout, everything else to stderr. Exit codes: 0 done; 1 done, but not everything is
    equal or can be expressed; 2 could not be done.
    """


for _verb in (convert_verb, validate_verb, inspect_verb):
    main.add_command(_verb)
