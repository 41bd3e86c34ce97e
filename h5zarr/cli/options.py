"""Options that several verbs have."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import click

from h5zarr.cli.completion import complete_path


def _key_values(_: click.Context, __: click.Parameter, pairs: tuple[str, ...]) -> dict[str, Any]:
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


def _timeout(_: click.Context, __: click.Parameter, seconds: float | None) -> float | None:
    from h5zarr.isolation import LONGEST_TIMEOUT_SECONDS

    if seconds is not None and not 0 < seconds <= LONGEST_TIMEOUT_SECONDS:  # NaN neither
        raise click.BadParameter(f"{seconds} is not positive, or over {LONGEST_TIMEOUT_SECONDS:,} seconds")
    return seconds


def decorate(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return one decorator that does what several do, in their order."""
    return lambda command: functools.reduce(lambda inner, outer: outer(inner), reversed(decorators), command)


storage_option = click.option(
    "-S",
    "--storage-option",
    "storage_options",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_key_values,
    help="Option of the fsspec filesystem, the value as JSON or text: -S anon=true. Repeatable.",
)
quiet = click.option("-q", "--quiet", is_flag=True, help="Write nothing to stderr but errors.")
jobs = click.option(
    "-j", "--jobs", type=click.IntRange(min=1), metavar="N", help="Work on so many files at a time."
)
html = click.option(
    "--html",
    metavar="FILE",
    shell_complete=complete_path,
    help="Write a report as an HTML page that needs no network; - is stdout.",
)
debug = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
as_json = click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")
scanning = decorate(
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
        type=float,
        metavar="SECONDS",
        callback=_timeout,
        help="Longest time that the scan may take, which is isolated then.",
    ),
    storage_option,
)
translating = decorate(
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

writing = decorate(
    click.option(
        "--format",
        type=click.Choice(["json", "parquet", "icechunk", "zarr"]),
        help="How to write; without it the suffix of OUT tells: .parq, .icechunk, .zarr; others mean JSON.",
    ),
    click.option(
        "-O",
        "--output-option",
        "output_options",
        multiple=True,
        metavar="KEY=VALUE",
        callback=_key_values,
        help="Option of the fsspec filesystem of OUT. Repeatable.",
    ),
    click.option(
        "--zarr-format",
        type=click.Choice(["3", "2", "both"]),
        default="3",
        show_default=True,
        help="Which metadata to write; 2 for readers that know no other, both in JSON only.",
    ),
    click.option(
        "--record-size",
        type=click.IntRange(min=1),
        metavar="N",
        help="Of Parquet references: so many in each file.",
    ),
    click.option("--branch", metavar="NAME", help="Of an Icechunk repository: the branch to commit to."),
    click.option("--message", metavar="TEXT", help="Of an Icechunk repository: the message of the commit."),
    click.option(
        "--shard-bytes",
        type=click.IntRange(min=1),
        metavar="BYTES",
        help="Of a Zarr store: pack chunks into shards of about so many bytes.",
    ),
    click.option(
        "--portable",
        is_flag=True,
        help="Of a Zarr store: encode anew what not every Zarr reader decodes.",
    ),
)
