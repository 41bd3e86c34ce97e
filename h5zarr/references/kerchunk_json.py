"""References as JSON: the fsspec reference specification, version 1.

Metadata are Zarr v3's, Zarr v2's, or both, with chunk keys that readers of both know. The extra key
``h5zarr`` keeps where the references come from and what could not be expressed.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import itemgetter, methodcaller

import numpy as np
import ujson

from h5zarr import _fallback
from h5zarr.errors import ReferencesError
from h5zarr.model import (
    JSON,
    ArrayNode,
    GroupNode,
    Hierarchy,
    Manifest,
    Shape,
    UInt32Column,
    UInt64Column,
)
from h5zarr.references import keys, provenance
from h5zarr.references.keys import ChunkKeys, ZarrFormat
from h5zarr.references.provenance import Provenance
from h5zarr.references.zarr_v2 import consolidated, v2_documents, with_zarr_v2

try:
    from h5zarr import _native
except ImportError:  # installed without a compiler
    _native = None  # type: ignore[assignment]

_ROWS_PER_BLOCK = 65536
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
    try:
        document = ujson.loads(text)
    except ValueError as error:
        raise ReferencesError(f"not JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("refs"), dict):
        raise ReferencesError("not a version 1 reference file: it has no refs")
    return from_references(document)


def from_references(document: Mapping[str, JSON]) -> Hierarchy:
    """Return the hierarchy of which `references` gave the dict.

    Raises
    ------
    ReferencesError
        It is not a manifest with Zarr v3's metadata.
    """
    try:
        return _hierarchy(document, provenance.from_json(document.get("h5zarr")))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ReferencesError(f"not a manifest that h5zarr can read: {reason}") from error


def _hierarchy(document: Mapping[str, JSON], origin: Provenance) -> Hierarchy:
    refs = document["refs"]
    if document.get("gen"):
        raise ReferencesError("references made by a rule, the key gen: write them out with fsspec first")
    chunks = dict(refs)
    documents = {key: chunks.pop(key) for key in _metadata_keys(refs)}
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
    arrays = [_Array.of(path, own) for path, own in metadata.items() if own["node_type"] == "array"]
    _sort_out(chunks, arrays)
    expand = _expander(document.get("templates") or {})
    nodes = {array.path: array.node(expand) for array in arrays}
    return Hierarchy(
        nodes={path: nodes.get(path) or GroupNode(path=path, metadata=own) for path, own in metadata.items()},
        source=origin.source,
        selection=origin.selection,
        problems=origin.problems,
        parts=origin.parts,
    )


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


# What version 1 allows in a template is more; kerchunk writes this.
_TEMPLATE = re.compile(r"\{\{(\w+)\}\}")


def _expander(templates: Mapping[str, str]) -> Callable[[JSON], str]:
    """Return what puts templates into the URL of a reference."""

    def expand(url: JSON) -> str:
        if not isinstance(url, str):
            raise ReferencesError("references without a URL: fsspec's `target` names it; write it into them")
        if not templates or "{{" not in url:
            return url
        expanded = _TEMPLATE.sub(lambda found: templates[found[1]], url)
        if "{{" in expanded:
            raise ReferencesError(
                f"a template that is more than a name, {url}: write it out with fsspec first"
            )
        return expanded

    return expand


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Array:
    """An array, and the references of its chunks as they stand in the manifest."""

    path: str
    """Its absolute path."""
    metadata: Mapping[str, JSON]
    """Its ``zarr.json``."""
    chunk_keys: ChunkKeys
    """How the keys of its chunks are made."""
    grid_shape: Shape
    """Number of chunks along each dimension (grid cells)."""
    prefix: str
    """What the keys of its chunks begin with."""
    names: list[str]
    """(n,) The keys of its chunks."""
    values: list[JSON]
    """(n,) What each refers to."""

    @classmethod
    def of(cls, path: str, metadata: Mapping[str, JSON]) -> _Array:
        chunk_keys, grid = ChunkKeys.of(metadata), keys.chunk_grid_shape(metadata)
        return cls(
            path=path,
            metadata=keys.DEFAULT.in_metadata(metadata),
            chunk_keys=chunk_keys,
            grid_shape=grid,
            prefix=chunk_keys.prefix(path, len(grid)),
            names=[],
            values=[],
        )

    def node(self, expand: Callable[[JSON], str]) -> ArrayNode:
        positions = self.chunk_keys.positions(self.path, self.grid_shape, self.names)
        ordered = np.sort(positions)
        if (ordered[1:] == ordered[:-1]).any():
            raise ValueError(f"{self.path}: two references of one chunk")
        rows, inline = self.values, {}
        if not {str, bytes}.isdisjoint(map(type, rows)):
            is_inline = np.array([isinstance(value, str | bytes) for value in rows])
            stored = [value for value in rows if isinstance(value, str | bytes)]
            inline = dict(zip(positions[is_inline].tolist(), map(_inline_bytes, stored), strict=True))
            rows = [value for value in rows if not isinstance(value, str | bytes)]
            positions = positions[~is_inline]
        manifest = _manifest(self.grid_shape, positions, rows, inline, expand)
        return ArrayNode(path=self.path, metadata=self.metadata, manifest=manifest)


def _sort_out(chunks: Mapping[str, JSON], arrays: Sequence[_Array]) -> None:
    """Give each array the references of its chunks, whose keys mostly stand side by side."""
    by_path = {array.path: array for array in arrays}
    names, values = list(chunks), list(chunks.values())
    start = 0
    while start < len(names):
        array, end = _owner(names[start], by_path), start + 1
        if array is not None:
            end = _run_end(names, end, array.prefix)
            array.names.extend(names[start:end])
            array.values.extend(values[start:end])
        start = end


def _owner(key: str, by_path: Mapping[str, _Array]) -> _Array | None:
    """Return the array that a key is below; None where it is below none."""
    path = f"/{key}"
    while path and path not in by_path:
        path = path.rpartition("/")[0]
    if path and not key.startswith(by_path[path].prefix):
        raise ValueError(f"{key}: is no chunk key of its array")
    return by_path.get(path)


def _run_end(names: Sequence[str], start: int, prefix: str) -> int:
    """Return the end of the names from ``start`` on that begin with a prefix."""
    is_alike = methodcaller("startswith", prefix)
    step = 64
    while True:
        alike = len(list(takewhile(is_alike, names[start : start + step])))
        start += alike
        if alike < step:
            return start
        step *= 2


def _manifest(
    grid: Shape,
    positions: UInt64Column,
    rows: Sequence[JSON],
    inline: Mapping[int, bytes],
    expand: Callable[[JSON], str],
) -> Manifest:
    if not set(map(type, rows)) <= {list, tuple} or set(map(len, rows)) - {3}:
        raise ValueError("a chunk that is neither text nor URL, offset and length")
    # No `zip(*rows)`: Python's garbage collector then looks at every row.
    urls, byte_offset, byte_length = (list(map(itemgetter(at), rows)) for at in range(3))
    locations, location_index = _locations(urls, expand)
    order = np.argsort(positions, kind="stable")
    return Manifest(
        grid_shape=grid,
        locations=locations,
        grid_position=positions[order],
        byte_offset=_column(byte_offset)[order],
        byte_length=_column(byte_length)[order],
        location_index=location_index[order] if len(locations) > 1 else None,
        inline=inline,
    )


def _locations(urls: Sequence[JSON], expand: Callable[[JSON], str]) -> tuple[tuple[str, ...], UInt32Column]:
    """Return the URLs without repetition, and which of them each one is."""
    expanded = {url: expand(url) for url in dict.fromkeys(urls)}
    numbers = {url: number for number, url in enumerate(dict.fromkeys(expanded.values()))}
    which = {url: numbers[full] for url, full in expanded.items()}
    return tuple(numbers), np.fromiter(map(which.__getitem__, urls), np.uint32, len(urls))


def _column(numbers: Sequence[JSON]) -> UInt64Column:
    column = np.array(numbers) if numbers else np.zeros(0, np.uint64)
    if column.dtype.kind not in "iu" or (column < 0).any():
        raise ValueError("an offset or a length is no count of bytes")
    return column.astype(np.uint64)


def _inline_bytes(value: str | bytes) -> bytes:
    stored = value.encode() if isinstance(value, str) else value
    prefix = _BASE64.encode()
    return base64.b64decode(stored.removeprefix(prefix)) if stored.startswith(prefix) else stored
