"""References as JSON: the fsspec reference specification, version 1, with Zarr v3 keys.

Every node has its own ``zarr.json``, and the root's carries all of them as consolidated metadata:
readers use the one, opening a node by its path the other. The extra key ``h5zarr`` keeps where the
references come from and what could not be expressed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import ujson

from h5zarr import _fallback
from h5zarr.dimensions import whole_branches
from h5zarr.errors import ReferencesError
from h5zarr.model import (
    JSON,
    ArrayNode,
    GroupNode,
    Hierarchy,
    Manifest,
    Shape,
    grid_shape,
)
from h5zarr.references import provenance
from h5zarr.references.provenance import Provenance

try:
    from h5zarr import _native
except ImportError:  # installed without a compiler
    _native = None  # type: ignore[assignment]

UInt64Matrix = npt.NDArray[np.uint64]

_ROWS_PER_BLOCK = 65536
_BASE64 = "base64:"
_METADATA_KEY = "zarr.json"


def render(hierarchy: Hierarchy, *, version: str) -> Iterator[bytes]:
    """Yield the manifest as blocks of JSON; the same hierarchy gives the same bytes.

    Parameters
    ----------
    hierarchy
        What to write.
    version
        Version of h5zarr, for the provenance.
    """
    yield b'{"version":1,"refs":{\n'
    pending = b""
    for block in _members(hierarchy):
        yield pending
        pending = block
    yield pending.removesuffix(b",\n")
    yield b'\n},\n"h5zarr":' + _dumps(provenance.to_json(hierarchy, version)).encode() + b"}\n"


def references(hierarchy: Hierarchy, *, version: str) -> dict[str, JSON]:
    """Return the manifest as a dict, as pipelines and fsspec's reference filesystem take it."""
    refs: dict[str, JSON] = {}
    for path, document in _documents(hierarchy):
        refs[_key(path, _METADATA_KEY)] = _dumps(document)
    for array in hierarchy.arrays():
        refs.update(_array_references(array))
    return {"version": 1, "refs": refs, "h5zarr": provenance.to_json(hierarchy, version)}


# Writing ---------------------------------------------------------------------------------


def _dumps(document: JSON) -> str:
    return json.dumps(document, separators=(",", ":"))


def _key(path: str, name: str) -> str:
    """Return the store key of a name under a node."""
    return f"{path.strip('/')}/{name}".lstrip("/")


def _documents(hierarchy: Hierarchy) -> Iterator[tuple[str, JSON]]:
    """Yield each node's path and metadata document; the root's holds all of them."""
    # zarr-python 3.1 loses nodes where siblings do not stand side by side.
    below = [path for path in whole_branches(hierarchy.nodes) if path != "/"]
    children = {path.strip("/"): hierarchy.nodes[path].metadata for path in below}
    consolidated = {"kind": "inline", "must_understand": False, "metadata": children}
    for path, node in hierarchy.nodes.items():
        if path == "/":
            yield path, {**node.metadata, "consolidated_metadata": consolidated}
        else:
            yield path, node.metadata


def _members(hierarchy: Hierarchy) -> Iterator[bytes]:
    """Yield blocks of JSON members, each followed by a comma and a newline."""
    for path, document in _documents(hierarchy):
        yield _member(_key(path, _METADATA_KEY), _dumps(document))
    for array in hierarchy.arrays():
        for position, stored in sorted(array.manifest.inline.items()):
            yield _member(_chunk_key(array, position), _BASE64 + base64.b64encode(stored).decode())
        yield from _rendered(array)


def _member(key: str, value: str) -> bytes:
    return f"{json.dumps(key)}:{json.dumps(value)},\n".encode()


def _rendered(array: ArrayNode) -> Iterator[bytes]:
    render_rows = _fallback.render_references if _native is None else _native.render_references
    manifest = array.manifest
    prefix = json.dumps(_key(array.path, "c"))[:-1].encode()
    locations = tuple(json.dumps(location).encode() for location in manifest.locations)
    for start in range(0, len(manifest.grid_position), _ROWS_PER_BLOCK):
        rows = slice(start, start + _ROWS_PER_BLOCK)
        yield render_rows(
            prefix,
            manifest.grid_shape,
            manifest.grid_position[rows],
            manifest.byte_offset[rows],
            manifest.byte_length[rows],
            locations,
            None if manifest.location_index is None else manifest.location_index[rows],
        )


def _chunk_key(array: ArrayNode, position: int) -> str:
    """Return the store key of a chunk (Zarr v3 core, "default chunk key encoding")."""
    grid = array.manifest.grid_shape
    cells = np.unravel_index(position, grid) if grid else ()
    return "/".join([_key(array.path, "c"), *map(str, cells)])


def _array_references(array: ArrayNode) -> Iterator[tuple[str, JSON]]:
    manifest = array.manifest
    for position, stored in sorted(manifest.inline.items()):
        yield _chunk_key(array, position), _BASE64 + base64.b64encode(stored).decode()
    which = (
        np.zeros(len(manifest.grid_position), int)
        if manifest.location_index is None
        else manifest.location_index
    )
    for position, location, byte_offset, byte_length in zip(
        manifest.grid_position.tolist(),
        which.tolist(),
        manifest.byte_offset.tolist(),
        manifest.byte_length.tolist(),
        strict=True,
    ):
        yield _chunk_key(array, position), [manifest.locations[location], byte_offset, byte_length]


# Loading ---------------------------------------------------------------------------------


def load(text: str | bytes) -> Hierarchy:
    """Return the hierarchy that `render` wrote.

    Raises
    ------
    ReferencesError
        It is not JSON, or not a manifest with Zarr v3 keys.
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
        It is not a manifest with Zarr v3 keys.
    """
    try:
        return _hierarchy(document["refs"], provenance.from_json(document.get("h5zarr")))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ReferencesError(f"not a manifest that h5zarr can read: {reason}") from error


def _hierarchy(refs: Mapping[str, JSON], origin: Provenance) -> Hierarchy:
    metadata, chunks = _sorted_out(refs)
    if "/" not in metadata:
        raise ReferencesError("the references have no zarr.json: they are not Zarr v3")
    return Hierarchy(
        nodes={path: _node(path, json_text, chunks.get(path, {})) for path, json_text in metadata.items()},
        source=origin.source,
        selection=origin.selection,
        problems=origin.problems,
        parts=origin.parts,
    )


def _sorted_out(refs: Mapping[str, JSON]) -> tuple[dict[str, str], dict[str, dict[str, JSON]]]:
    """Return the metadata documents by path, and the references of chunks by path and chunk key."""
    suffix = f"/{_METADATA_KEY}"
    metadata = {
        "/" + key.removesuffix(_METADATA_KEY).strip("/"): value
        for key, value in refs.items()
        if key == _METADATA_KEY or key.endswith(suffix)
    }
    chunks: dict[str, dict[str, JSON]] = {}
    for key, value in refs.items():
        path, _, cells = f"/{key}".rpartition("/c/")
        if key.endswith("/c"):  # the chunk of a scalar
            path, cells = f"/{key}"[:-2], ""
        if path in metadata and not key.endswith(suffix):
            chunks.setdefault(path, {})[cells] = value
    return metadata, chunks


def _node(path: str, json_text: str, chunks: Mapping[str, JSON]) -> GroupNode | ArrayNode:
    metadata = json.loads(json_text)
    metadata.pop("consolidated_metadata", None)
    if metadata["node_type"] == "group":
        return GroupNode(path=path, metadata=metadata)
    chunk_shape = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    grid = grid_shape(tuple(metadata["shape"]), tuple(chunk_shape))
    return ArrayNode(path=path, metadata=metadata, manifest=_manifest(grid, chunks))


def _manifest(grid: Shape, chunks: Mapping[str, JSON]) -> Manifest:
    positions = _positions(list(chunks), grid)
    inline: dict[int, bytes] = {}
    rows: list[tuple[int, int, int, int]] = []
    locations: dict[str, int] = {}
    for position, value in zip(positions, chunks.values(), strict=True):
        if isinstance(value, str):
            inline[position] = _inline_bytes(value)
        else:
            location, byte_offset, byte_length = value
            rows.append((position, locations.setdefault(location, len(locations)), byte_offset, byte_length))
    rows.sort()
    columns = _columns(rows)
    return Manifest(
        grid_shape=grid,
        locations=tuple(locations),
        grid_position=np.ascontiguousarray(columns[:, 0]),
        byte_offset=np.ascontiguousarray(columns[:, 2]),
        byte_length=np.ascontiguousarray(columns[:, 3]),
        location_index=columns[:, 1].astype(np.uint32) if len(locations) > 1 else None,
        inline=inline,
    )


def _positions(keys: list[str], grid: Shape) -> list[int]:
    """Return the linear grid positions of chunks, whose keys are grid cells like ``0/12``."""
    if not grid:
        return [0] * len(keys)
    cells = np.array(list(map(int, "/".join(keys).split("/"))) if keys else [], np.int64)
    positions = np.ravel_multi_index(tuple(cells.reshape(len(keys), len(grid)).T), grid)
    return list(map(int, np.asarray(positions)))


def _columns(rows: list[tuple[int, int, int, int]]) -> UInt64Matrix:
    columns = np.array(rows or np.zeros((0, 4), np.uint64))
    if columns.dtype.kind not in "iu" or (columns < 0).any():
        raise ValueError("an offset or a length is no count of bytes")
    return columns.astype(np.uint64)


def _inline_bytes(value: str) -> bytes:
    if value.startswith(_BASE64):
        return base64.b64decode(value.removeprefix(_BASE64))
    return value.encode()
