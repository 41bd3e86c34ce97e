"""Opening HDF5 files, and references to them of any kind, as a Zarr store."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ujson
from fsspec.core import split_protocol
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.reference import ReferenceFileSystem
from fsspec.utils import stringify_path

from h5zarr.errors import NotHDF5Error, Problem, ReferencesError, SourceError, SourceNotFoundError
from h5zarr.identity import source_errors
from h5zarr.model import JSON, Hierarchy, Selection
from h5zarr.prefetch import one_line
from h5zarr.reading.data_files import DataFiles, DataPlaces, reach
from h5zarr.reading.lookup import FsspecLookup, HierarchyLookup, Lookup
from h5zarr.reading.reference_store import ReferenceStore
from h5zarr.references import json_document, kerchunk_json, provenance
from h5zarr.references.formats import format_of, reading
from h5zarr.references.keys import CONSOLIDATED_KEY, METADATA_KEY, store_key
from h5zarr.references.provenance import Provenance
from h5zarr.scanner import scan
from h5zarr.source import check_public
from h5zarr.translator import translate

_UNNAMED_URL = "source://file"
"""Stands for a URL that must not stand in references; nobody but this process sees these."""
_FIRST_BYTES = 64
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OpenedStore:
    """A Zarr store of an HDF5 file."""

    store: ReferenceStore
    """The store."""
    zarr_format: int
    """Version of its metadata, 2 or 3."""
    consolidated: bool
    """Whether it has consolidated metadata."""
    selection: Selection
    """The part of the file that it holds."""
    problems: tuple[Problem, ...]
    """What of the file is not in it."""

    def has_group(self, path: str) -> bool:
        """Return whether there is a group at an absolute path."""
        lookup = self.store.lookup
        if self.zarr_format == 2:
            return store_key(path, ".zgroup") in lookup
        document = lookup.get(store_key(path, METADATA_KEY))
        return isinstance(document, bytes) and json.loads(document)["node_type"] == "group"


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreOptions:
    """How a store is opened."""

    storage_options: Mapping[str, Any] | None = None
    """Options of the fsspec filesystem of what is opened, and of the files that it refers to."""
    remote_options: Mapping[str, Any] | None = None
    """Options of the fsspec filesystem of the files that references point into, where it needs others."""
    remote_protocol: str | None = None
    """Protocol of URLs in references that have none."""
    follow_external: bool = False
    """Whether a scan opens files outside of the source's own folder."""
    check_source: bool = True
    """Whether a file that is not the one that references were made of is an error."""

    def places(self, origin: Provenance) -> DataPlaces:
        """Return where the files are that references point into."""
        identities = tuple(provenance.known_files(origin)) if self.check_source else None
        options = self.storage_options if self.remote_options is None else self.remote_options
        return DataPlaces(storage_options=options or {}, protocol=self.remote_protocol, identities=identities)


def open_store(
    source: str | os.PathLike[str] | Mapping[str, JSON], options: StoreOptions | None = None
) -> OpenedStore:
    """Open an HDF5 file, or references to such files, as a read-only Zarr store.

    What it is, its content tells: an HDF5 file is scanned; JSON begins with ``{``; a folder of Parquet
    references has ``.zmetadata``.

    Parameters
    ----------
    source
        Path or fsspec URL of an HDF5 file or of references; or fsspec's reference specification as a
        dict. References may be those of h5zarr, kerchunk or VirtualiZarr, of Zarr v3 or v2.
    options
        How it is opened.

    Raises
    ------
    SourceError
        It is neither an HDF5 file nor references, or cannot be read; the subclass tells why.
    ReferencesError
        It is references that cannot be opened.
    """
    options = options or StoreOptions()
    if isinstance(source, Mapping):
        return _open_document(source, options)
    url = _absolute(stringify_path(source))
    # The name tells what to look for first.
    opened = None if format_of(url) is None else _open_references(url, options)
    if opened is not None:
        return opened
    try:
        return _scan(url, options)
    except (NotHDF5Error, SourceNotFoundError):
        opened = _open_references(url, options)
        if opened is None:
            raise
        return opened


def _absolute(url: str) -> str:
    """Return a local path as it is from any current folder on; others as they are."""
    return url if split_protocol(url)[0] is not None else str(Path(url).expanduser().absolute())


def _scan(url: str, options: StoreOptions) -> OpenedStore:
    public_url = None if _is_public(url) else _UNNAMED_URL
    scanned = scan(
        url,
        storage_options=options.storage_options,
        public_url=public_url,
        follow_external=options.follow_external,
    )
    hierarchy = translate(scanned)
    places = options.places(_origin(hierarchy))
    return _opened(hierarchy, places if public_url is None else replace(places, urls={public_url: url}))


def _is_public(url: str) -> bool:
    try:
        check_public(url)
    except SourceError:
        return False
    return True


def _origin(hierarchy: Hierarchy) -> Provenance:
    return Provenance(
        version=None,
        source=hierarchy.source,
        selection=hierarchy.selection,
        problems=hierarchy.problems,
        parts=hierarchy.parts,
        options=hierarchy.options,
        neighbours=hierarchy.neighbours,
    )


def _opened(hierarchy: Hierarchy, places: DataPlaces) -> OpenedStore:
    return _with_lookup(HierarchyLookup(hierarchy), _origin(hierarchy), places)


def _with_lookup(lookup: Lookup, origin: Provenance, places: DataPlaces) -> OpenedStore:
    is_v3 = METADATA_KEY in lookup
    return OpenedStore(
        store=ReferenceStore(lookup, DataFiles(places)),
        zarr_format=3 if is_v3 else 2,
        consolidated=is_v3 or CONSOLIDATED_KEY in lookup,
        selection=origin.selection,
        problems=origin.problems,
    )


# References ------------------------------------------------------------------------------


def _open_references(url: str, options: StoreOptions) -> OpenedStore | None:
    """Open references as JSON or Parquet; return None where there are none that can be read."""
    storage_options = options.storage_options or {}
    first = _read(url, "", storage_options, end=_FIRST_BYTES)
    if first is not None and first.removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(b"{"):
        with reading(url):
            filesystem, path = reach(url, storage_options)
            return _open_text(filesystem.cat_file(path).removeprefix(_BYTE_ORDER_MARK), options)
    folder = _read(url, CONSOLIDATED_KEY, storage_options, is_there=format_of(url) == "parquet")
    return None if folder is None else _open_folder(url, folder, options)


def _read(
    url: str,
    name: str,
    storage_options: Mapping[str, Any],
    *,
    end: int | None = None,
    is_there: bool = False,
) -> bytes | None:
    """Return the beginning of a file, or of one in a folder; None where it cannot be read.

    Raises
    ------
    SourceError
        It ``is_there``, as its name tells, and is refused.
    """
    try:
        with source_errors(url):
            filesystem, path = reach(url, storage_options)
            place = f"{path.rstrip('/')}/{name}" if name else path
            content: bytes = filesystem.cat_file(place, start=0, end=end)
    except SourceError as error:
        is_missing = isinstance(error, SourceNotFoundError) or isinstance(error.__cause__, NotADirectoryError)
        if is_there and not is_missing:
            raise
        return None
    return content


def _open_text(text: bytes, options: StoreOptions) -> OpenedStore:
    """Open references as JSON."""
    document = json_document.parse_rows(text)
    if document is None or METADATA_KEY not in document.references:
        return _open_document(ujson.loads(text), options)
    hierarchy = kerchunk_json.from_document(document)
    return _opened(hierarchy, options.places(_origin(hierarchy)))


def _open_document(document: Any, options: StoreOptions) -> OpenedStore:
    """Open references as JSON (fsspec's reference specification, version 1 or 0)."""
    refs = document.get("refs", document) if isinstance(document, Mapping) else None
    if not isinstance(refs, Mapping) or {METADATA_KEY, ".zgroup"}.isdisjoint(refs):
        raise ReferencesError("no references to a Zarr group; h5zarr convert makes them of an HDF5 file")
    if METADATA_KEY in refs:
        versioned = document if refs is not document else {"refs": document}
        hierarchy = kerchunk_json.from_references(versioned)
        return _opened(hierarchy, options.places(_origin(hierarchy)))
    origin = provenance.from_json(document.get("h5zarr"))
    return _with_lookup(_v2_lookup(document), origin, options.places(origin))


def _v2_lookup(document: Mapping[str, JSON]) -> Lookup:
    try:
        # Rules, the key gen, are left out without a word where templates are taken for simple.
        references = ReferenceFileSystem(
            document, fs={"file": LocalFileSystem()}, simple_templates=not document.get("gen")
        ).references
    except (ImportError, LookupError, TypeError, ValueError) as error:
        raise ReferencesError(f"no references that fsspec can read: {one_line(error)}") from error
    return FsspecLookup(references)


def _open_folder(url: str, text: bytes, options: StoreOptions) -> OpenedStore:
    """Open Parquet references, whose ``.zmetadata`` was read."""
    with reading(url):
        document = json.loads(text)
        if not isinstance(document, dict) or "record_size" not in document:
            raise ReferencesError("a Zarr store, not references; open it with xarray's engine zarr")
        origin = provenance.from_json(document.get("h5zarr"))
    # pyarrow need not be installed for other references.
    from h5zarr.reading.parquet_lookup import ParquetLookup

    lookup = ParquetLookup(url, document, options.storage_options or {})
    return _with_lookup(lookup, origin, options.places(origin))
