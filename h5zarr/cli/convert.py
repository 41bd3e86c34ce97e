"""The verb `convert`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from h5zarr.cli.completion import complete_path
from h5zarr.cli.options import debug, jobs, quiet, scanning, translating, writing
from h5zarr.cli.terminal import is_drawn_on, print_blocks, progress_bar
from h5zarr.cli.verbs import EXIT_DONE, EXIT_INCOMPLETE, Verb, tell, tell_all
from h5zarr.text import count

if TYPE_CHECKING:
    from h5zarr.converter import Conversion
    from h5zarr.file_report import FileReport

_STDOUT = "-"
_EXAMPLES = """
\b
Examples:
  h5zarr convert file.nc -o file.json
  h5zarr convert s3://bucket/file.nc -S anon=true -o file.parq
  h5zarr convert 'data/*.h5' -o references/ --resume
  h5zarr convert copy.nc -o file.json --public-url s3://bucket/file.nc
  h5zarr convert file.json -o file.icechunk

Then compare them with the file: h5zarr validate file.json
"""


@click.command("convert", cls=Verb, epilog=_EXAMPLES)
@click.argument("sources", metavar="INPUT...", nargs=-1, shell_complete=complete_path)
@click.option(
    "-o",
    "--output",
    "out",
    required=True,
    metavar="OUT",
    shell_complete=complete_path,
    help="Path or URL to write, - is stdout; of several inputs, a folder.",
)
@click.option(
    "--from-file",
    type=click.File("r", encoding="utf-8-sig", errors="surrogateescape"),
    metavar="FILE",
    shell_complete=complete_path,
    help="Read further inputs from FILE, one a line; - is stdin.",
)
@jobs
@click.option("--resume", is_flag=True, help="Of several inputs: leave what is done and unchanged.")
@scanning
@translating
@writing
@quiet
@debug
def convert_verb(
    sources: tuple[str, ...],
    out: str,
    from_file: Iterable[str] | None,
    jobs: int | None,
    resume: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Write references to the chunks of INPUT.

    INPUT is the path or fsspec URL of an HDF5 or netCDF-4 file. It may also be
    references, to be written in another format. Of several inputs, patterns such as
    's3://bucket/*.nc', or where OUT is a folder, each becomes references of its own.
    """
    from h5zarr.inputs import is_pattern, read_list

    if from_file is not None:
        sources = (*sources, *read_list(from_file))
    if not sources:
        raise click.UsageError("name an INPUT, or a list of them with --from-file")
    if from_file is not None or len(sources) > 1 or _is_folder(out) or is_pattern(sources[0]):
        return _convert_many(sources, out, quiet, jobs=jobs, resume=resume, **options)
    if resume or jobs is not None:
        raise click.UsageError("--resume and --jobs are for several inputs; write FOLDER/ after -o")
    return _convert_one(sources[0], out, quiet, **options)


def _is_folder(out: str) -> bool:
    """Return whether a folder was named for several outputs; some formats are folders themselves."""
    from h5zarr.references.formats import format_of

    return out.endswith("/") or (format_of(out) is None and Path(out).is_dir())


# One file --------------------------------------------------------------------------------


def _convert_one(source: str, out: str, quiet: bool, **options: Any) -> int:
    from h5zarr.converter import convert

    with progress_bar("Scanning", quiet=quiet) as progress:
        conversion = convert(source, named(out, options["format"]), progress=progress, **options)
    return finish(out, conversion, quiet=quiet)


def named(out: str, format: str | None) -> str | None:
    """Return the output that was named; None for stdout, to which `finish` writes."""
    if out == _STDOUT and format not in (None, "json"):
        raise click.UsageError("only JSON can be written to stdout; name a file or folder with -o")
    return None if out == _STDOUT else out


def finish(out: str, conversion: Conversion, *, quiet: bool) -> int:
    """Write references that have no other output to stdout, tell of them, and return the exit code."""
    if out == _STDOUT:
        print_blocks(conversion.blocks())
    if not quiet:
        _tell_conversion("stdout" if out == _STDOUT else out, conversion)
    return EXIT_INCOMPLETE if conversion.problems else EXIT_DONE


def _tell_conversion(out: str, conversion: Conversion) -> None:
    from h5zarr.file_report import without_credentials

    tell_all(conversion.problems)
    arrays = list(conversion.hierarchy.arrays())
    referenced = sum(len(array.manifest.grid_position) for array in arrays)
    inline = sum(len(array.manifest.inline) for array in arrays)
    chunks = f"{count(referenced, 'reference')}, {inline:,} inline"
    text = f"{without_credentials(out)}: {count(len(arrays), 'array')}, {chunks}"
    if conversion.problems:
        text += f"; {count(len(conversion.problems), 'problem')}, listed above and in the references"
    tell(text)


# Several ---------------------------------------------------------------------------------


def _convert_many(sources: tuple[str, ...], out: str, quiet: bool, **options: Any) -> int:
    from h5zarr.many import convert_many

    if out == _STDOUT:
        raise click.UsageError("references of several inputs cannot go to stdout; name a folder with -o")
    with progress_bar("Converting", quiet=quiet, unit="files") as progress:
        reports = convert_many(sources, out, report=_Telling(quiet=quiet), progress=progress, **options)
    if not quiet:
        tell(_summary(out, reports))
    return EXIT_DONE if all(report.ok for report in reports) else EXIT_INCOMPLETE


class _Telling:
    """Writes what became of each file to stderr; of those that are well, only where nobody sees a bar."""

    def __init__(self, *, quiet: bool) -> None:
        self._is_brief = quiet or is_drawn_on(sys.stderr)

    def __call__(self, report: FileReport) -> None:
        for problem in report.problems:
            tell(f"{report.name}: {problem}")
        if report.error is not None:
            known = " ".join(report.name.split()) in report.error  # which is in one line
            tell(report.error if known else f"{report.name}: {report.error}", failed=True)
        elif not self._is_brief:
            from h5zarr.file_report import without_credentials

            tell(f"{report.name}: {report.status} {without_credentials(report.out or '')}")


def _summary(out: str, reports: Iterable[FileReport]) -> str:
    from h5zarr.file_report import without_credentials

    told = list(reports)
    numbers: dict[str, int] = {}
    for report in told:
        numbers[str(report.status)] = numbers.get(str(report.status), 0) + 1
    text = ", ".join(f"{number:,} {status}" for status, number in numbers.items())
    problems = sum(len(report.problems) for report in told)
    return f"{without_credentials(out)}: {count(len(told), 'file')}: {text}" + (
        f"; {count(problems, 'problem')}, listed above and in the references" if problems else ""
    )
