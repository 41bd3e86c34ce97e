"""References as Parquet, which fsspec's `LazyReferenceMapper` reads record by record.

A folder holds ``.zmetadata`` and, for each array, ``<path>/refs.<record>.parq``, whose rows
`h5zarr.references.parquet_records` describes.

`LazyReferenceMapper` was made for Zarr v2. It reads Zarr v3's metadata too: the keys of chunks are v2's,
``var/0.1``, and a stub ``var/.zarray`` tells it the grid. ``.zmetadata`` has ``metadata``,
``record_size``, and the key ``h5zarr`` with where the references come from.

fsspec reads the files with fastparquet unless it is told otherwise. With pyarrow and pandas 3 it raises
TypeError where a chunk is absent; ``pandas.options.future.infer_string = False`` avoids that.

https://fsspec.github.io/kerchunk/spec.html#parquet-references
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fsspec.core import split_protocol, url_to_fs
from fsspec.utils import stringify_path

from h5zarr.errors import OutputError, Problem, ReferencesError
from h5zarr.identity import is_of_filesystem
from h5zarr.model import JSON, ArrayNode, GroupNode, Hierarchy, Manifest, Shape
from h5zarr.output import output_errors, whole_folder
from h5zarr.prefetch.redact import describe, redact
from h5zarr.protocols import LOCAL, options_of
from h5zarr.references import keys, provenance
from h5zarr.references.keys import CONSOLIDATED_KEY, METADATA_KEY, ZarrFormat
from h5zarr.references.parquet_records import Record, decode, encode, join
from h5zarr.references.provenance import Provenance
from h5zarr.references.zarr_v2 import consolidated, v2_documents, with_zarr_v2

RECORD_SIZE = 100_000
"""References in each file, unless told otherwise."""

_MOST_RECORDS = 10_000
_FILES_AT_ONCE = 64
_UNREADABLE_SEGMENTS = frozenset({"", ".", ".."})
# Those that clients of HTTP leave out of a URL, and those that they decode.
_LOST_IN_URLS = re.compile(r"[?#\t\r\n]|%[0-9A-Fa-f]{2}")


def with_parquet_names(hierarchy: Hierarchy) -> Hierarchy:
    """Return a hierarchy without the arrays that fsspec would not find in Parquet references.

    Parameters
    ----------
    hierarchy
        What is to be written. The result's problems tell of what is left out; its result is the same.
    """
    nodes: dict[str, GroupNode | ArrayNode] = {}
    problems = list(hierarchy.problems)
    for path, node in hierarchy.nodes.items():
        found = _unreadable_name(path) if isinstance(node, ArrayNode) else None
        if found is None:
            nodes[path] = node
            continue
        remedy = "write references as JSON, or rename it with h5py"
        problems.append(Problem(path=hierarchy.selection.hdf5_path(path), found=found, remedy=remedy))
    return replace(hierarchy, nodes=nodes, problems=tuple(problems))


def _unreadable_name(path: str) -> str | None:
    """Return why fsspec would read the fill value for every chunk of an array, None where it does not."""
    segments = path.strip("/").split("/")
    if any(segment.startswith(".z") for segment in segments):
        return "a name that begins with '.z', which fsspec takes for Zarr's metadata in Parquet references"
    if _LOST_IN_URLS.search(path):
        return "a name that does not survive in a URL: over HTTP, fsspec would not find its Parquet files"
    if not _UNREADABLE_SEGMENTS.isdisjoint(segments):
        return "a name that is empty, '.' or '..', which no folder has"
    return None


def write(
    hierarchy: Hierarchy,
    out: str | os.PathLike[str],
    *,
    version: str,
    record_size: int = RECORD_SIZE,
    storage_options: Mapping[str, Any] | None = None,
    zarr_format: ZarrFormat = "3",
) -> None:
    """Write Parquet references, whole or not at all as `h5zarr.output.whole_folder` tells.

    Parameters
    ----------
    hierarchy
        What to write; what cannot be expressed becomes a problem, as `with_parquet_names` and
        `zarr_v2.with_zarr_v2` tell.
    out
        Path or fsspec URL of the folder. Readers over HTTP want a name that ends in ``.parq``.
    version
        Version of h5zarr, for the provenance.
    record_size
        Chunks in each file: a reader fetches one for the first chunk that it reads.
    storage_options
        Options of the fsspec filesystem of ``out``.
    zarr_format
        Which metadata to write: ``"3"``, or ``"2"``, whose nested groups fsspec opens only where it is
        given ``remote_protocol``.

    Raises
    ------
    OutputError
        It cannot be written; there is something else at ``out``; or readers could not open it there.
    """
    if zarr_format == "both" or record_size < 1:
        raise OutputError("Parquet references have one Zarr format, 3 or 2, and at least one row in a record")
    target = stringify_path(out)
    _refuse_unreadable(target)
    _refuse_other_store(target, storage_options)
    hierarchy = with_zarr_v2(with_parquet_names(hierarchy), zarr_format)
    grids = {array.path: _record_grid(array, record_size, zarr_format) for array in hierarchy.arrays()}
    metadata = {
        **_metadata(hierarchy, grids, zarr_format),
        "record_size": record_size,
        "h5zarr": provenance.to_json(hierarchy, version),
    }
    text = json.dumps(metadata, separators=(",", ":"))
    with (
        whole_folder(out, last=CONSOLIDATED_KEY, storage_options=storage_options) as folder,
        output_errors(redact(target)),
    ):
        for array in hierarchy.arrays():
            _write_array(folder / array.path.strip("/"), array.manifest, grids[array.path], record_size)
        (folder / CONSOLIDATED_KEY).write_text(text, encoding="utf-8")


# Names and places ------------------------------------------------------------------------


def _refuse_unreadable(target: str) -> None:
    """Refuse a place where fsspec would open the references as JSON, or read fill values."""
    protocol, path = split_protocol(target)
    path = os.path.realpath(path) if protocol in LOCAL else path
    for text in (".json", "{", "}"):
        if text in path:
            raise OutputError(
                f"{redact(target)}: fsspec reads no Parquet references where a path has {text!r}"
            )


def _refuse_other_store(target: str, storage_options: Mapping[str, Any] | None) -> None:
    """Refuse to write over a Zarr v2 store, which has a file ``.zmetadata`` too."""
    try:
        document = json.loads(_Folder.at(target, storage_options).read(CONSOLIDATED_KEY))
    except (OSError, ImportError, ValueError):
        return  # nothing is there, or nothing that is a store
    if not isinstance(document, dict) or "record_size" not in document:
        raise OutputError(f"{redact(target)}: is a Zarr store; remove it, or choose another name")


def _record_grid(array: ArrayNode, record_size: int, zarr_format: ZarrFormat) -> Shape:
    """Return the grid whose chunks have rows; of zeros where nothing is referenced in very many."""
    grid = array.manifest.grid_shape
    if -(-math.prod(grid) // record_size) <= _MOST_RECORDS:
        return grid
    if len(array.manifest) == 0 and zarr_format == "3":
        return (0,) * len(grid)
    raise OutputError(
        f"{array.path}: a grid of {math.prod(grid)} chunks, which take more than {_MOST_RECORDS} records;"
        " raise the record size, or write JSON or Icechunk"
    )


def _metadata(hierarchy: Hierarchy, grids: Mapping[str, Shape], zarr_format: ZarrFormat) -> dict[str, JSON]:
    if zarr_format == "2":
        return consolidated(v2_documents(hierarchy))
    documents = dict(keys.v3_documents(hierarchy, keys.V2))
    # Without `remote_protocol`, fsspec looks for the first URL below every name that has metadata.
    names = [METADATA_KEY, *(path.strip("/") for path in hierarchy.nodes if path != "/")]
    stubs = {f"{name}/.zarray": _stub((0,)) for name in names}
    stubs |= {keys.store_key(path, ".zarray"): _stub(grid) for path, grid in grids.items()}
    return {"metadata": {**documents, **stubs}}


def _stub(grid: Shape) -> JSON:
    """Return what `LazyReferenceMapper` computes the row of a chunk from."""
    return {"shape": list(grid), "chunks": [1] * len(grid)}


def _write_array(folder: Path, manifest: Manifest, grid: Shape, record_size: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for number, content in enumerate(encode(manifest, math.prod(grid), record_size)):
            # Not "wb": on a file system that knows no case, "T" must not overwrite "t".
            with (folder / f"refs.{number}.parq").open("xb") as stream:
                stream.write(content)
    except ValueError as error:
        raise OutputError(f"{folder.name}: an offset that Parquet cannot have: {error}") from error


# Loading ---------------------------------------------------------------------------------


def load(url: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None) -> Hierarchy:
    """Return the hierarchy of which `write` wrote the references.

    Parameters
    ----------
    url
        Path or fsspec URL of the folder.
    storage_options
        Options of its fsspec filesystem.

    Raises
    ------
    ReferencesError
        There are no such references, a file is missing, or they are not Zarr v3.
    """
    with _reading(stringify_path(url)):
        folder = _Folder.at(stringify_path(url), storage_options)
        document = json.loads(folder.read(CONSOLIDATED_KEY))
        origin = provenance.from_json(document.get("h5zarr"))
        return origin.hierarchy(_nodes(folder, document["metadata"], document["record_size"]))


def read_provenance(
    url: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None
) -> Provenance:
    """Return where Parquet references come from; only ``.zmetadata`` is read.

    Parameters
    ----------
    url, storage_options
        As of `load`.

    Raises
    ------
    ReferencesError
        There are no such references, or they are damaged.
    """
    with _reading(stringify_path(url)):
        document = json.loads(_Folder.at(stringify_path(url), storage_options).read(CONSOLIDATED_KEY))
        return provenance.from_json(document.get("h5zarr"))


@contextlib.contextmanager
def _reading(url: str) -> Iterator[None]:
    """Raise what reading a folder raises as an error that names it."""
    name = redact(url)
    try:
        yield
    except ReferencesError as error:
        raise ReferencesError(f"{name}: {error}") from error
    except FileNotFoundError as error:
        missing = redact(str(error.filename or error))
        raise ReferencesError(f"{name}: there is no {missing}; copy the whole folder") from error
    except (OSError, ImportError) as error:
        raise ReferencesError(f"{name}: cannot be read: {describe(error)}") from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ReferencesError(f"{name}: no Parquet references that can be read: {describe(error)}") from error
    except Exception as error:
        if not is_of_filesystem(error):
            raise
        raise ReferencesError(f"{name}: cannot be read: {describe(error)}") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class _Folder:
    """A folder of Parquet references."""

    filesystem: Any
    root: str

    @classmethod
    def at(cls, url: str, storage_options: Mapping[str, Any] | None) -> _Folder:
        filesystem, root = url_to_fs(url, **options_of(url, storage_options))
        return cls(filesystem=filesystem, root=root.rstrip("/"))

    def read(self, name: str) -> bytes:
        content: bytes = self.filesystem.cat_file(f"{self.root}/{name}")
        return content

    def read_all(self, names: list[str]) -> list[bytes]:
        # Not `cat`, which takes names with brackets for patterns.
        paths = [f"{self.root}/{name}" for name in names]
        everything = [None] * len(paths)
        contents: list[bytes] = self.filesystem.cat_ranges(paths, everything, everything, on_error="raise")
        return contents


def _nodes(
    folder: _Folder, metadata: Mapping[str, JSON], record_size: int
) -> dict[str, GroupNode | ArrayNode]:
    if METADATA_KEY not in metadata:
        raise ReferencesError("not Zarr v3: make them anew of the HDF5 file, with Zarr format 3")
    own = {
        "/" + key.removesuffix(METADATA_KEY).strip("/"): dict(document)
        for key, document in metadata.items()
        if key.rpartition("/")[2] == METADATA_KEY
    }
    own["/"].pop("consolidated_metadata", None)
    grids = {
        path: _grid(path, document) for path, document in own.items() if document["node_type"] == "array"
    }
    stubs = {path: metadata[keys.store_key(path, ".zarray")] for path in grids}
    counts = {path: _row_count(path, grid, stubs[path]) for path, grid in grids.items()}
    manifests = _manifests(folder, grids, counts, record_size)
    return {
        path: ArrayNode(path=path, metadata=keys.DEFAULT.in_metadata(document), manifest=manifests[path])
        if path in manifests
        else GroupNode(path=path, metadata=document)
        for path, document in own.items()
    }


def _grid(path: str, metadata: Mapping[str, JSON]) -> Shape:
    if keys.ChunkKeys.of(metadata) != keys.V2:
        raise ValueError(f"{path}: chunk keys that fsspec does not find in Parquet references")
    return keys.chunk_grid_shape(metadata)


def _row_count(path: str, grid: Shape, stub: Mapping[str, JSON]) -> int:
    """Return the rows of an array: one for each chunk, or none at all."""
    if stub not in (_stub(grid), _stub((0,) * len(grid))):
        raise ValueError(f"{path}: {stub}, where the grid is {grid}")
    return math.prod(stub["shape"])


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    """One file of references."""

    path: str
    """Path of its array."""
    number: int
    """Which of the array's files it is."""
    start: int
    """Grid position of its first row."""
    count: int
    """Rows that the grid has there."""

    @property
    def name(self) -> str:
        """Its path in the folder."""
        return keys.store_key(self.path, f"refs.{self.number}.parq")


def _manifests(
    folder: _Folder, grids: Mapping[str, Shape], counts: Mapping[str, int], record_size: int
) -> dict[str, Manifest]:
    files = [
        _File(path=path, number=number, start=start, count=min(record_size, count - start))
        for path, count in counts.items()
        for number, start in enumerate(range(0, count, record_size))
    ]
    records: dict[str, list[Record]] = {path: [] for path in grids}
    for first in range(0, len(files), _FILES_AT_ONCE):
        some = files[first : first + _FILES_AT_ONCE]
        for file, content in zip(some, folder.read_all([file.name for file in some]), strict=True):
            records[file.path].append(decode(content, file.start, file.count))
    return {path: join(grid, records[path]) for path, grid in grids.items()}
