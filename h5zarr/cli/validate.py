"""The verb `validate`."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import click

from h5zarr.cli.completion import complete_path
from h5zarr.cli.options import as_json, debug, html, jobs, quiet, storage_option
from h5zarr.cli.terminal import print_json, progress_bar, refuse_two_on_stdout, write_html
from h5zarr.cli.verbs import EXIT_DONE, EXIT_INCOMPLETE, Verb, tell, tell_all
from h5zarr.text import count, human_bytes

if TYPE_CHECKING:
    from h5zarr.report import ValidationReport

_AFTER_A_MISMATCH = "do not use these references: convert the file again"
_EXAMPLES = """
\b
Examples:
  h5zarr validate file.json
  h5zarr validate file.json --sample 100 --seed 7
  h5zarr validate s3://bucket/file.json -S anon=true --html report.html
"""


@click.command("validate", cls=Verb, epilog=_EXAMPLES)
@click.argument("references", metavar="REFERENCES", shell_complete=complete_path)
@click.option(
    "--source",
    metavar="URL",
    shell_complete=complete_path,
    help="Read the HDF5 file here instead of where the references say.",
)
@click.option(
    "--sample",
    type=click.IntRange(min=0),
    metavar="N",
    help="Compare the values of N chunks only, chosen at random; all else is still compared whole.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Makes the choice of chunks repeatable.")
@jobs
@storage_option
@as_json
@html
@quiet
@debug
def validate_verb(references: str, as_json: bool, html: str | None, quiet: bool, **options: Any) -> int:
    """Compare all that REFERENCES give with what h5py reads."""
    refuse_two_on_stdout(html, as_json)
    from h5zarr.references.formats import read_provenance
    from h5zarr.validator import validate

    # zarr 3.1 warns of every `numcodecs.*` codec; that one exact codec exists is why it was chosen.
    warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr version 3")
    # fsspec reads Parquet references with it, whatever pandas says.
    warnings.filterwarnings("ignore", message="The 'fastparquet' engine is deprecated")
    # Of references with --zarr-format both; the check compares the metadata that zarr takes.
    warnings.filterwarnings("ignore", message="Both zarr.json")
    parts = read_provenance(references, storage_options=options["storage_options"]).parts
    with progress_bar("Comparing", quiet=quiet, unit="files" if parts else "bytes") as progress:
        report = validate(references, progress=progress, **options)
    if html is not None:
        write_html(html, report, references)
    if as_json:
        print_json(report.to_json())
    elif not quiet:
        tell_all(report.mismatches)
    if not quiet:
        tell(_validation_summary(references, report), failed=not report.ok)
    return EXIT_DONE if report.ok else EXIT_INCOMPLETE


def _validation_summary(references: str, report: ValidationReport) -> str:
    from h5zarr.file_report import without_credentials

    chunks = f"{report.chunks_compared:,} of {count(report.chunks_total, 'chunk')}"
    compared = f"{count(report.arrays_compared, 'array')}, {chunks}, {human_bytes(report.bytes_compared)}"
    if report.ok:
        verdict = "all equal to what h5py reads"
    else:
        verdict = f"{count(report.mismatch_count, 'mismatch', 'mismatches')}; {_AFTER_A_MISMATCH}"
    name = without_credentials(references)
    return f"{name}: {compared}: {verdict}{_reported(report.problems_reported)}"


def _reported(problems: int) -> str:
    return f"; not compared: {count(problems, 'problem')} that the references list" if problems else ""
