"""The command line: the only place of h5zarr that prints, draws progress and chooses an exit code.

Data goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import click

from h5zarr.errors import H5zarrError
from h5zarr.text import count, human_bytes, printable

if TYPE_CHECKING:
    from h5zarr.converter import Conversion
    from h5zarr.report import ValidationReport

# What a verb needs is imported when it runs: --help and --version need neither h5py nor zarr.

EXIT_DONE = 0
EXIT_INCOMPLETE = 1
EXIT_FAILED = 2
EXIT_INTERRUPTED = 130

_STDOUT = "-"
_SECONDS_BETWEEN_DRAWINGS = 0.1
_AFTER_A_MISMATCH = "do not use these references: convert the file again"
_FAILURES = (H5zarrError, OSError, MemoryError, ImportError)

Progress = Callable[[int, int], None]


class Verbs(click.Group):
    """Commands that Ctrl-C ends with the exit code that shells expect."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _tell("interrupted; run it again to have a result")
            raise SystemExit(EXIT_INTERRUPTED) from None


class Verb(click.Command):
    """A command that turns what h5zarr raises into one line on stderr and an exit code."""

    def invoke(self, ctx: click.Context) -> NoReturn:
        """Run the command; what it returns is the exit code."""
        debug = bool(ctx.params.pop("debug"))
        try:
            status = super().invoke(ctx)
        except BrokenPipeError:
            raise
        except _FAILURES as error:
            if debug:
                click.echo(traceback.format_exc(), err=True, nl=False)
            _tell(str(error) or type(error).__name__)
            status = EXIT_FAILED
        ctx.exit(status)


def _tell(message: str) -> None:
    click.echo(f"h5zarr: {printable(' '.join(message.split()))}", err=True)


# Options ----------------------------------------------------------------------------------


def _storage_options(_: click.Context, __: click.Parameter, pairs: tuple[str, ...]) -> dict[str, Any]:
    options = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE, such as anon=true")
        options[key] = _json_or_text(text)
    return options


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _decorate(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda command: functools.reduce(lambda inner, outer: outer(inner), reversed(decorators), command)


_storage_option = click.option(
    "-S",
    "--storage-option",
    "storage_options",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_storage_options,
    help="Option of the fsspec filesystem, the value as JSON or text: -S anon=true. Repeatable.",
)
_quiet = click.option("-q", "--quiet", is_flag=True, help="Write nothing to stderr but errors.")
_debug = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
_as_json = click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")
_scanning = _decorate(
    click.option("-g", "--group", default="/", metavar="PATH", help="Take this group as the root."),
    click.option(
        "--include",
        multiple=True,
        metavar="PATTERN",
        help="Take only datasets whose path matches, such as '/grid/*'. Repeatable.",
    ),
    click.option(
        "--exclude",
        multiple=True,
        metavar="PATTERN",
        help="Leave out datasets whose path matches. Repeatable.",
    ),
    click.option(
        "--inline-threshold",
        type=click.IntRange(min=0),
        default=500,
        show_default=True,
        metavar="BYTES",
        help="Datasets of at most so many stored bytes go into the references themselves.",
    ),
    click.option(
        "--inline-limit",
        type=click.IntRange(min=0),
        default=64 * 2**20,
        show_default=True,
        metavar="BYTES",
        help="At most so many bytes go into the references in all.",
    ),
    click.option(
        "--follow-external",
        is_flag=True,
        help="Open other files that INPUT names, also where they are outside of its folder.",
    ),
    click.option(
        "--isolate",
        is_flag=True,
        help="Scan in a process of its own, so that a file that crashes libhdf5 is an error and no more.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="With --isolate: longest time that the scan may take.",
    ),
    _storage_option,
)
_translating = _decorate(
    click.option(
        "--links",
        type=click.Choice(["arrays", "attributes"]),
        default="arrays",
        show_default=True,
        help="Make further names of a dataset arrays of their own, or list them in its attributes.",
    ),
    click.option(
        "--phony-dimensions/--no-phony-dimensions",
        default=True,
        show_default=True,
        help="Name dimensions without a scale phony_dim_N, as netCDF tools do; xarray needs names.",
    ),
    click.option("--public-url", metavar="URL", help="Name INPUT by this URL in the references."),
)


# Verbs ------------------------------------------------------------------------------------


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="h5zarr", prog_name="h5zarr")
def main() -> None:
    """Make HDF5 and netCDF-4 files readable as Zarr v3, without copying them.

    Data go to stdout, everything else to stderr. Exit codes: 0 done; 1 done, but not everything is
    equal or can be expressed; 2 could not be done.
    """


@main.command("convert", cls=Verb)
@click.argument("source", metavar="INPUT")
@click.option(
    "-o", "--output", "out", required=True, metavar="OUT", help="Path or URL to write; - is stdout."
)
@_scanning
@_translating
@_quiet
@_debug
def convert_verb(source: str, out: str, quiet: bool, **options: Any) -> int:
    """Write references to the chunks of INPUT, a path or an fsspec URL."""
    from h5zarr.converter import convert

    to_stdout = out == _STDOUT
    with _progress("Scanning", quiet=quiet) as progress:
        conversion = convert(source, None if to_stdout else out, progress=progress, **options)
    if to_stdout:
        for block in conversion.blocks():
            click.echo(block, nl=False)
    if not quiet:
        _tell_all(conversion.problems)
        _tell(_conversion_summary("stdout" if to_stdout else out, conversion))
    return EXIT_INCOMPLETE if conversion.problems else EXIT_DONE


@main.command("validate", cls=Verb)
@click.argument("references", metavar="REFERENCES")
@click.option("--source", metavar="URL", help="Read the HDF5 file here instead of where the references say.")
@click.option(
    "--sample",
    type=click.IntRange(min=0),
    metavar="N",
    help="Compare the values of N chunks only, chosen at random; all else is still compared whole.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Makes the choice of chunks repeatable.")
@_storage_option
@_as_json
@_quiet
@_debug
def validate_verb(references: str, as_json: bool, quiet: bool, **options: Any) -> int:
    """Compare all that REFERENCES give with what h5py reads from the HDF5 file."""
    from h5zarr.validator import validate

    # zarr 3.1 warns of every `numcodecs.*` codec; that one exact codec exists is why it was chosen.
    warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr version 3")
    with _progress("Comparing", quiet=quiet) as progress:
        report = validate(references, progress=progress, **options)
    if as_json:
        _print_json(report.to_json())
    elif not quiet:
        _tell_all(report.mismatches)
    if not quiet:
        _tell(_validation_summary(references, report))
    return EXIT_DONE if report.ok else EXIT_INCOMPLETE


@main.command("inspect", cls=Verb)
@click.argument("source", metavar="INPUT")
@_scanning
@_as_json
@_quiet
@_debug
def inspect_verb(source: str, as_json: bool, quiet: bool, **options: Any) -> int:
    """Show what is in INPUT, a path or an fsspec URL, and what of it references cannot express."""
    from h5zarr.inspection import inspect

    with _progress("Scanning", quiet=quiet) as progress:
        inspection = inspect(source, progress=progress, **options)
    if as_json:
        _print_json(inspection.to_json())
    else:
        _print_lines(inspection.lines())
    return EXIT_INCOMPLETE if inspection.problems else EXIT_DONE


# Output -----------------------------------------------------------------------------------


def _print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2))


def _print_lines(lines: Iterable[str]) -> None:
    text = "\n".join(lines)
    click.echo(text.encode(sys.stdout.encoding, "backslashreplace"))


def _tell_all(findings: Iterable[object]) -> None:
    for finding in findings:
        _tell(str(finding))


def _conversion_summary(out: str, conversion: Conversion) -> str:
    arrays = list(conversion.hierarchy.arrays())
    referenced = sum(len(array.manifest.grid_position) for array in arrays)
    inline = sum(len(array.manifest.inline) for array in arrays)
    text = f"{out}: {count(len(arrays), 'array')}, {count(referenced, 'reference')}, {inline:,} inline"
    if not conversion.problems:
        return text
    return f"{text}; {count(len(conversion.problems), 'problem')}, listed above and in the references"


def _validation_summary(references: str, report: ValidationReport) -> str:
    chunks = f"{report.chunks_compared:,} of {count(report.chunks_total, 'chunk')}"
    compared = f"{count(report.arrays_compared, 'array')}, {chunks}, {human_bytes(report.bytes_compared)}"
    if report.ok:
        verdict = "all equal to what h5py reads"
    else:
        verdict = f"{count(report.mismatch_count, 'mismatch', 'mismatches')}; {_AFTER_A_MISMATCH}"
    return f"{references}: {compared}: {verdict}{_reported(report.problems_reported)}"


def _reported(problems: int) -> str:
    return f"; not compared: {count(problems, 'problem')} that the references list" if problems else ""


@contextlib.contextmanager
def _progress(label: str, *, quiet: bool) -> Iterator[Progress | None]:
    """Give a function that draws a bar on stderr; None where nobody would see it."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=1, label=label, file=sys.stderr) as bar:
        yield _Drawing(bar)


class _Drawing:
    """Draws a progress bar, but not more often than eyes can follow."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._next and done < total:
            return
        self._next = now + _SECONDS_BETWEEN_DRAWINGS
        self._bar.length = max(total, 1)
        self._bar.update(done - self._bar.pos)
