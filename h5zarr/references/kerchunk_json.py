"""References as JSON: the fsspec reference specification, version 1.

Metadata are Zarr v3's, Zarr v2's, or both, with chunk keys that readers of both know. The extra key
``h5zarr`` keeps where the references come from and what could not be expressed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from operator import methodcaller

import numpy as np

from h5zarr import _fallback
from h5zarr.compiled import native as _native
from h5zarr.errors import ReferencesError
from h5zarr.model import (
    JSON,
    ArrayNode,
    GroupNode,
    Hierarchy,
)
from h5zarr.references import keys, provenance
from h5zarr.references.json_arrays import array_nodes
from h5zarr.references.json_document import ReferenceDocument, document_of, parse
from h5zarr.references.keys import ChunkKeys, ZarrFormat
from h5zarr.references.provenance import Provenance
from h5zarr.references.zarr_v2 import consolidated, v2_documents, with_zarr_v2

_ROWS_PER_BLOCK = 65536
_V2_ARRAY_KEY = ".zarray"
_BASE64 = "base64:"
_SLASH, _DOT, _NEWLINE = b"/.\n"


def render(hierarchy: Hierarchy, *, version: str, zarr_format: ZarrFormat = "3") -> Iterator[bytes]:
    """Yield the manifest as blocks of JSON; the same hierarchy gives the same bytes.

    Parameters
    ----------
    hierarchy
        What to write.
    version
        Version of h5zarr, for the provenance.
    zarr_format
        Which metadata to write; arrays that Zarr v2 cannot express become problems, as
        `zarr_v2.with_zarr_v2` tells.
    """
    hierarchy = with_zarr_v2(hierarchy, zarr_format)
    yield b'{"version":1,"refs":{\n'
    pending = b""
    for block in _members(hierarchy, zarr_format):
        yield pending
        pending = block
    yield pending.removesuffix(b",\n")
    yield b'\n},\n"h5zarr":' + _dumps(provenance.to_json(hierarchy, version)).encode() + b"}\n"


def references(hierarchy: Hierarchy, *, version: str, zarr_format: ZarrFormat = "3") -> dict[str, JSON]:
    """Return the manifest as a dict, as pipelines and fsspec's reference filesystem take it.

    Parameters
    ----------
    hierarchy, version, zarr_format
        As of `render`.
    """
    hierarchy = with_zarr_v2(hierarchy, zarr_format)
    refs: dict[str, JSON] = {key: _dumps(document) for key, document in _documents(hierarchy, zarr_format)}
    for array in hierarchy.arrays():
        refs.update(_array_references(array, _chunk_keys(zarr_format)))
    return {"version": 1, "refs": refs, "h5zarr": provenance.to_json(hierarchy, version)}


# Writing ---------------------------------------------------------------------------------


def _dumps(document: JSON) -> str:
    return json.dumps(document, separators=(",", ":"))


def _chunk_keys(zarr_format: ZarrFormat) -> ChunkKeys:
    return keys.DEFAULT if zarr_format == "3" else keys.V2


def _documents(hierarchy: Hierarchy, zarr_format: ZarrFormat) -> Iterator[tuple[str, JSON]]:
    """Yield the store keys and documents of all metadata."""
    if zarr_format != "2":
        yield from keys.v3_documents(hierarchy, _chunk_keys(zarr_format))
    if zarr_format != "3":
        documents = v2_documents(hierarchy)
        yield from documents.items()
        yield keys.CONSOLIDATED_KEY, consolidated(documents)


def _members(hierarchy: Hierarchy, zarr_format: ZarrFormat) -> Iterator[bytes]:
    """Yield blocks of JSON members, each followed by a comma and a newline."""
    chunk_keys = _chunk_keys(zarr_format)
    for key, document in _documents(hierarchy, zarr_format):
        yield _member(key, _dumps(document))
    for array in hierarchy.arrays():
        for key, value in _inline_references(array, chunk_keys):
            yield _member(key, value)
        yield from _rendered(array, chunk_keys)


def _member(key: str, value: str) -> bytes:
    return f"{json.dumps(key)}:{json.dumps(value)},\n".encode()


def _rendered(array: ArrayNode, chunk_keys: ChunkKeys) -> Iterator[bytes]:
    render_rows = _fallback.render_references if _native is None else _native.render_references
    manifest = array.manifest
    # The renderer puts a slash before each cell of the grid.
    prefix = json.dumps(chunk_keys.prefix(array.path, len(manifest.grid_shape)).removesuffix("/"))[:-1]
    locations = tuple(json.dumps(location).encode() for location in manifest.locations)
    for start in range(0, len(manifest.grid_position), _ROWS_PER_BLOCK):
        rows = slice(start, start + _ROWS_PER_BLOCK)
        block = render_rows(
            prefix.encode(),
            manifest.grid_shape,
            manifest.grid_position[rows],
            manifest.byte_offset[rows],
            manifest.byte_length[rows],
            locations,
            None if manifest.location_index is None else manifest.location_index[rows],
        )
        has_slashes = chunk_keys.separator == "/" or len(manifest.grid_shape) < 2
        yield block if has_slashes else _with_dots(block, len(prefix), len(manifest.grid_shape))


def _with_dots(block: bytes, prefix_length: int, rank: int) -> bytes:
    """Return rendered references with dots instead of slashes between the cells of each key."""
    text = np.frombuffer(block, np.uint8).copy()
    line_starts = np.concatenate([[0], np.flatnonzero(text == _NEWLINE)[:-1] + 1])
    slashes = np.flatnonzero(text == _SLASH)
    first = np.searchsorted(slashes, line_starts + prefix_length)
    for axis in range(1, rank):
        text[slashes[first + axis]] = _DOT
    return text.tobytes()


def _inline_references(array: ArrayNode, chunk_keys: ChunkKeys) -> Iterator[tuple[str, str]]:
    manifest = array.manifest
    positions = np.array(sorted(manifest.inline), np.uint64)
    names = chunk_keys.keys(array.path, manifest.grid_shape, positions)
    for name, position in zip(names, positions.tolist(), strict=True):
        yield name, _BASE64 + base64.b64encode(manifest.inline[position]).decode()


def _array_references(array: ArrayNode, chunk_keys: ChunkKeys) -> Iterator[tuple[str, JSON]]:
    yield from _inline_references(array, chunk_keys)
    manifest = array.manifest
    which = (
        np.zeros(len(manifest.grid_position), int)
        if manifest.location_index is None
        else manifest.location_index
    )
    for name, location, byte_offset, byte_length in zip(
        chunk_keys.keys(array.path, manifest.grid_shape, manifest.grid_position),
        which.tolist(),
        manifest.byte_offset.tolist(),
        manifest.byte_length.tolist(),
        strict=True,
    ):
        yield name, [manifest.locations[location], byte_offset, byte_length]


# Loading ---------------------------------------------------------------------------------


def load(text: str | bytes) -> Hierarchy:
    """Return the hierarchy that `render` wrote.

    Raises
    ------
    ReferencesError
        It is not JSON, or not a manifest with Zarr v3's metadata.
    """
    return from_document(parse(text.encode() if isinstance(text, str) else text))


def from_references(references: Mapping[str, JSON]) -> Hierarchy:
    """Return the hierarchy of which `references` gave the dict.

    Raises
    ------
    ReferencesError
        It is not a manifest with Zarr v3's metadata.
    """
    return from_document(document_of(references))


def from_document(document: ReferenceDocument) -> Hierarchy:
    """Return the hierarchy of parsed references.

    Raises
    ------
    ReferencesError
        They are not a manifest with Zarr v3's metadata.
    """
    try:
        return _hierarchy(document, provenance.from_json(document.members.get("h5zarr")))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ReferencesError(f"not a manifest that h5zarr can read: {reason}") from error


def _hierarchy(document: ReferenceDocument, origin: Provenance) -> Hierarchy:
    if document.members.get("gen"):
        raise ReferencesError("references made by a rule, the key gen: write them out with fsspec first")
    chunks = dict(document.references)
    documents = {key: chunks.pop(key) for key in _metadata_keys(chunks)}
    metadata = {
        "/" + key.removesuffix(keys.METADATA_KEY).strip("/"): _metadata(value)
        for key, value in documents.items()
        if key.endswith(keys.METADATA_KEY)
    }
    if "/" not in metadata:
        raise ReferencesError(
            "the references have no zarr.json: they are not Zarr v3. Make them anew of the HDF5 file,"
            " with Zarr format 3 or both"
        )
    if metadata["/"]["node_type"] == "array":
        raise ReferencesError("the references are of one array at the root; h5zarr reads those of groups")
    _check_that_all_are_v3(documents, metadata)
    arrays = {path: own for path, own in metadata.items() if own["node_type"] == "array"}
    nodes = array_nodes(arrays, chunks, document)
    return origin.hierarchy(
        {path: nodes.get(path) or GroupNode(path=path, metadata=own) for path, own in metadata.items()}
    )


def _check_that_all_are_v3(documents: Iterable[str], metadata: Mapping[str, JSON]) -> None:
    for key in documents:
        path, _, name = f"/{key}".rpartition("/")
        if name == _V2_ARRAY_KEY and (path or "/") not in metadata:
            raise ReferencesError(f"{path or '/'}: an array that has no zarr.json, unlike others")


def _metadata_keys(refs: Mapping[str, JSON]) -> list[str]:
    """Return the keys of metadata documents, in their order."""
    known = (keys.METADATA_KEY, *keys.V2_METADATA_KEYS)
    return [key for key in filter(methodcaller("endswith", known), refs) if key.rpartition("/")[2] in known]


def _metadata(value: JSON) -> dict[str, JSON]:
    """Return a ``zarr.json``, which may stand in the manifest as text or as an object."""
    document = dict(value) if isinstance(value, Mapping) else json.loads(value)
    document.pop("consolidated_metadata", None)
    if document["node_type"] not in ("group", "array"):
        raise ValueError(f"a node of type {document['node_type']!r}")
    return document
