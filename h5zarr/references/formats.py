"""The formats of references: which one a name asks for, and how each is written and loaded."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

import fsspec
from fsspec.core import url_to_fs
from fsspec.utils import stringify_path

from h5zarr.errors import OutputError, ReferencesError
from h5zarr.identity import is_of_filesystem, is_refusal
from h5zarr.model import JSON, Hierarchy
from h5zarr.output import write_whole
from h5zarr.prefetch.redact import describe, holds_credentials, redact
from h5zarr.protocols import options_of
from h5zarr.references import kerchunk_json, provenance
from h5zarr.references.keys import ZarrFormat
from h5zarr.references.provenance import Provenance
from h5zarr.references.source_check import known_sources
from h5zarr.references.zarr_v2 import with_zarr_v2
from h5zarr.source import local_path
from h5zarr.streams import SIGNATURE

# pyarrow and icechunk need not be installed for the other formats, and take long to import:
# the modules that use them are imported when they are needed.

Format = Literal["json", "parquet", "icechunk", "zarr"]
"""How references are kept; ``zarr`` is a store that holds the chunks themselves."""

SUFFIXES: Mapping[str, Format] = {
    ".json": "json",
    ".parq": "parquet",
    ".parquet": "parquet",
    ".icechunk": "icechunk",
    ".zarr": "zarr",
}
"""Formats by how names end; the first of a format is the one it is given."""

_OF_OTHER_FILES = (".h5", ".hdf5", ".he5", ".nc", ".nc4", ".zip")
"""Suffixes of what is never written."""

Progress = Callable[[int, int], None]

LARGEST_TAIL_BYTES = 64 * 1024
_PROVENANCE_LINE = b'\n"h5zarr":'


_REPOSITORY_VERSION = re.compile(r"(.+\.icechunk)/?@([^/@]+)", re.IGNORECASE | re.DOTALL)


class WriteOptions(TypedDict, total=False):
    """How a hierarchy is written; what a format has no use for must not be given."""

    format: Format | None
    """The format; None: as the suffix of the output tells, JSON where it tells none. One that tells of
    HDF5 or of an archive is refused then."""
    output_options: Mapping[str, Any] | None
    """Options of the fsspec filesystem of the output."""
    zarr_format: ZarrFormat
    """Which versions of Zarr's metadata references have, in JSON and Parquet: ``"3"``, ``"2"``, in JSON also
    ``"both"``."""
    record_size: int | None
    """References in each file of Parquet references."""
    branch: str | None
    """Branch of the Icechunk repository; None: ``main``."""
    message: str | None
    """Message of the commit to the Icechunk repository."""
    shard_bytes: int | None
    """Chunks of a Zarr store are packed into shards of about so many bytes; None: each is an object."""
    portable: bool
    """Whether arrays of a Zarr store that only some readers know are encoded anew."""


_LEFT_OUT: Mapping[str, Any] = {"portable": False, "zarr_format": "3"}
"""What options are where nobody gives them, if it is not None."""
_OPTIONS_OF: Mapping[Format, frozenset[str]] = {
    "json": frozenset({"zarr_format"}),
    "parquet": frozenset({"record_size", "zarr_format"}),
    "icechunk": frozenset({"branch", "message"}),
    "zarr": frozenset({"shard_bytes", "portable"}),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Where references go, and how."""

    url: str
    """Path or fsspec URL."""
    format: Format
    """The format."""
    storage_options: Mapping[str, Any]
    """Options of its filesystem."""
    options: Mapping[str, Any]
    """What the format's writer takes besides."""


def format_of(url: str | os.PathLike[str]) -> Format | None:
    """Return the format that a name tells by its suffix; None where it tells none."""
    path = _lower_path(repository_version(stringify_path(url))[0])
    return next((known for suffix, known in SUFFIXES.items() if path.endswith(suffix)), None)


def _lower_path(url: str) -> str:
    return url.partition("?")[0].rstrip("/").lower()


def repository_version(url: str) -> tuple[str, str | None]:
    """Return the URL of an Icechunk repository, and the branch, tag or snapshot named behind an ``@``.

    Where the name is not that of a repository, nothing is named.
    """
    found = _REPOSITORY_VERSION.fullmatch(url)
    return (url, None) if found is None else (found[1], found[2])


def suffix_of(chosen: Format) -> str:
    """Return the suffix that names of a format get."""
    return next(suffix for suffix, known in SUFFIXES.items() if known == chosen)


def target(url: str | os.PathLike[str], options: WriteOptions) -> Target:
    """Return where and how to write.

    Parameters
    ----------
    url
        Path or fsspec URL of the output.
    options
        What was asked for.

    Raises
    ------
    OutputError
        An option was given that the format has no use for, or that does not exist; or the suffix tells
        of something else.
    """
    name = stringify_path(url)
    _check_options(redact(name), options)
    repository, version = repository_version(name)
    if version is not None:
        raise OutputError(f"{redact(name)}: write to {redact(repository)}, with branch {version}")
    chosen = options.get("format") or format_of(name) or _json_under(name)
    given = {
        key: value
        for key, value in options.items()
        if key not in ("format", "output_options") and value != _LEFT_OUT.get(key)
    }
    foreign = sorted(given.keys() - _OPTIONS_OF[chosen])
    if foreign:
        raise OutputError(f"{redact(name)}: {chosen} references have no {', '.join(foreign)}; leave it out")
    return Target(
        url=name, format=chosen, storage_options=dict(options.get("output_options") or {}), options=given
    )


def _json_under(name: str) -> Format:
    """Return the format of names whose suffix tells none; refuse those that tell of something else."""
    if _lower_path(name).endswith(_OF_OTHER_FILES):
        raise OutputError(
            f"{redact(name)}: has a suffix that references do not have; choose one of {', '.join(SUFFIXES)},"
            " or name the format by --format (format)"
        )
    return "json"


def _check_options(name: str, options: WriteOptions) -> None:
    """Refuse what types would tell: 2 for ``"2"`` would write something else."""
    known: Mapping[str, tuple[Any, ...]] = {
        "format": (None, *_OPTIONS_OF),
        "zarr_format": get_args(ZarrFormat),
    }
    for option, values in known.items():
        if option in options and options[option] not in values:  # type: ignore[literal-required]
            told = ", ".join(repr(value) for value in values if value is not None)
            raise OutputError(f"{name}: {option} is {options[option]!r}; choose one of {told}")  # type: ignore[literal-required]
    if options.get("branch") == "":
        raise OutputError(f"{name}: branch is empty; name one, or leave it out")
    for option in ("shard_bytes", "record_size"):
        if (given := options.get(option)) is not None and given < 1:  # type: ignore[operator]
            raise OutputError(f"{name}: {option} is {given}; it has to be positive")


def _refuse_sources(hierarchy: Hierarchy, to: Target) -> None:
    """Refuse to write over a file that references point into, also through another name of it."""
    urls = {url for array in hierarchy.arrays() for url in array.manifest.locations}
    urls |= known_sources(hierarchy).keys()
    written = local_path(to.url)
    is_file = written is not None and written.is_file()
    for url in urls:
        read = local_path(url)
        is_same = is_file and read is not None and read.is_file() and read.samefile(written)  # type: ignore[arg-type]
        if url == to.url or is_same:
            raise OutputError(
                f"{redact(to.url)}: is a file that the references point into; choose another name for them"
            )


def _refuse_credentials(hierarchy: Hierarchy, to: Target) -> None:
    """Refuse to write URLs with credentials, which references of other tools may hold."""
    urls = {one.url for one in provenance.known_files(hierarchy)}
    if to.format != "zarr":
        urls |= {url for array in hierarchy.arrays() for url in array.manifest.locations}
    for url in filter(holds_credentials, urls):
        raise OutputError(
            f"{redact(to.url)}: the references point to {redact(url)} by a URL that holds credentials; point"
            " them to one without (h5zarr rename)"
        )


def expressible(hierarchy: Hierarchy, to: Target) -> Hierarchy:
    """Return a hierarchy without what a format cannot express; its problems tell of it.

    Parameters
    ----------
    hierarchy
        What is to be written.
    to
        Where, and how.
    """
    match to.format:
        case "json":
            return with_zarr_v2(hierarchy, to.options.get("zarr_format", "3"))
        case "parquet":
            from h5zarr.references import kerchunk_parquet

            hierarchy = kerchunk_parquet.with_parquet_names(hierarchy)
            return with_zarr_v2(hierarchy, to.options.get("zarr_format", "3"))
        case "icechunk":
            from h5zarr.references import icechunk_store

            return icechunk_store.expressible(hierarchy)
        case "zarr":
            from h5zarr.references import zarr_store

            return zarr_store.expressible(hierarchy, portable=bool(to.options.get("portable")))


def write(
    hierarchy: Hierarchy,
    to: Target,
    *,
    version: str,
    source_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write a hierarchy, whole or not at all.

    Parameters
    ----------
    hierarchy
        What to write.
    to
        Where, and how.
    version
        Version of h5zarr, for the provenance.
    source_options
        Options of the fsspec filesystem of the HDF5 file, of which a Zarr store gets a copy.
    progress
        Called with the bytes copied and their total, of a Zarr store.

    Raises
    ------
    OutputError
        It cannot be written.
    SourceError
        The HDF5 file, of which a Zarr store gets a copy, cannot be read.
    """
    _refuse_sources(hierarchy, to)
    _refuse_credentials(hierarchy, to)
    options = {"version": version, "storage_options": to.storage_options, **to.options}
    match to.format:
        case "json":
            blocks = kerchunk_json.render(hierarchy, version=version, **to.options)
            write_whole(to.url, blocks, kind="JSON", storage_options=to.storage_options)
        case "parquet":
            from h5zarr.references import kerchunk_parquet

            kerchunk_parquet.write(hierarchy, to.url, **options)
        case "icechunk":
            from h5zarr.references import icechunk_store

            icechunk_store.write(hierarchy, to.url, source_options=source_options, **options)
        case "zarr":
            from h5zarr.references import zarr_store

            zarr_store.write(hierarchy, to.url, source_options=source_options, progress=progress, **options)


def load(
    references: str | os.PathLike[str] | Mapping[str, JSON],
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> Hierarchy:
    """Load references of any format.

    Parameters
    ----------
    references
        Path or fsspec URL of references, whose suffix tells the format (JSON without one); or
        fsspec's reference specification as a dict. ``x.icechunk@trial`` is the branch, tag or snapshot
        ``trial`` of an Icechunk repository.
    storage_options
        Options of the fsspec filesystem.

    Raises
    ------
    ReferencesError
        There are none, or none that can be loaded.
    """
    if isinstance(references, Mapping):
        return kerchunk_json.from_references(references)
    url, options = stringify_path(references), dict(storage_options or {})
    match format_of(url):
        case "parquet":
            from h5zarr.references import kerchunk_parquet

            return kerchunk_parquet.load(url, storage_options=options)
        case "icechunk":
            from h5zarr.references import icechunk_store

            place, version = repository_version(url)
            return icechunk_store.load(place, version=version, storage_options=options)
        case "zarr":
            raise ReferencesError(f"{redact(url)}: a Zarr store holds its chunks itself, and no references")
        case _:
            with reading(url):
                return kerchunk_json.load(_read(url, options))


def read_json(url: str, *, storage_options: Mapping[str, Any] | None = None) -> Any:
    """Return the document in a file of JSON.

    Raises
    ------
    ReferencesError
        It cannot be read, or is no JSON.
    """
    with reading(url):
        return json.loads(_read(url, dict(storage_options or {})))


def read_provenance(url: str, *, storage_options: Mapping[str, Any] | None = None) -> Provenance:
    """Return where references come from, without loading them as far as the format allows.

    Parameters
    ----------
    url
        Path or fsspec URL of references of any format.
    storage_options
        Options of the fsspec filesystem.

    Raises
    ------
    ReferencesError
        They cannot be read, or do not tell.
    """
    options = dict(storage_options or {})
    match format_of(url):
        case "parquet":
            from h5zarr.references import kerchunk_parquet

            return kerchunk_parquet.read_provenance(url, storage_options=options)
        case "icechunk":
            from h5zarr.references import icechunk_store

            place, version = repository_version(url)
            return icechunk_store.read_provenance(place, version=version, storage_options=options)
        case "zarr":
            from h5zarr.references import zarr_store

            return zarr_store.read_provenance(url, storage_options=options)
        case _:
            with reading(url):
                return provenance.from_json(_json_provenance(url, options))


@contextlib.contextmanager
def reading(url: str) -> Iterator[None]:
    """Raise what reading references raises as one error that names them."""
    name = redact(url)
    try:
        yield
    except ReferencesError as error:
        raise ReferencesError(f"{name}: {error}") from error
    except FileNotFoundError as error:
        cause = error.__cause__
        if cause is not None and is_refusal(cause):
            raise ReferencesError(f"{name}: cannot be read: {describe(cause)}") from error
        raise ReferencesError(f"{name}: no such file; check the path") from error
    except (OSError, ImportError) as error:
        raise ReferencesError(f"{name}: cannot be read: {describe(error)}") from error
    except ValueError as error:
        raise ReferencesError(f"{name}: not JSON: {describe(error)}") from error
    except Exception as error:
        if not is_of_filesystem(error):
            raise
        raise ReferencesError(f"{name}: cannot be read: {describe(error)}") from error


def _filesystem(url: str, storage_options: Mapping[str, Any]) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the filesystem of references, which needs no options where they are local."""
    filesystem, path = url_to_fs(url, **options_of(url, storage_options))
    return filesystem, path


def _read(url: str, storage_options: Mapping[str, Any]) -> bytes:
    filesystem, path = _filesystem(url, storage_options)
    content: bytes = filesystem.cat_file(path)
    if content.startswith(SIGNATURE):
        raise ReferencesError("is an HDF5 file; h5zarr convert makes references of it")
    return content


def _json_provenance(url: str, storage_options: Mapping[str, Any]) -> JSON:
    """Return the key ``h5zarr`` of references as JSON, which h5zarr writes as the last line."""
    filesystem, path = _filesystem(url, storage_options)
    byte_length = filesystem.size(path) or 0
    tail = filesystem.cat_file(path, start=max(0, byte_length - LARGEST_TAIL_BYTES), end=byte_length)
    line = tail.rpartition(_PROVENANCE_LINE)[2].rstrip()
    if _PROVENANCE_LINE in tail and line.endswith(b"}}"):
        return json.loads(line[:-1])
    document = json.loads(_read(url, storage_options))
    return document.get("h5zarr") if isinstance(document, dict) else None
