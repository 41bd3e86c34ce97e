"""What the keys of a Zarr store refer to: looked up in a hierarchy's columns, or in fsspec's references."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from h5zarr.errors import ReferencesError
from h5zarr.model import JSON, Hierarchy, Manifest
from h5zarr.references.keys import DEFAULT, grid_position, v3_documents

_BASE64 = b"base64:"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """Bytes of a file."""

    url: str
    """Path or URL of the file."""
    byte_offset: int
    """Where they begin (bytes)."""
    byte_length: int | None
    """How many there are (bytes); None: all to the end of the file."""


Lookup = Mapping[str, bytes | Reference]
"""What each key of a store refers to: bytes that stand in the references themselves, or in a file."""


class HierarchyLookup(Mapping[str, bytes | Reference]):
    """What the keys of a hierarchy refer to, without an object for each chunk.

    Parameters
    ----------
    hierarchy
        The hierarchy.
    """

    def __init__(self, hierarchy: Hierarchy) -> None:
        documents = v3_documents(hierarchy, DEFAULT)
        self._documents = {key: json.dumps(document).encode() for key, document in documents}
        self._manifests = {
            DEFAULT.prefix(array.path, len(array.manifest.grid_shape)): array.manifest
            for array in hierarchy.arrays()
        }

    def __getitem__(self, key: str) -> bytes | Reference:
        document = self._documents.get(key)
        if document is not None:
            return document
        manifest, position = self._chunk(key)
        found = chunk_reference(manifest, position)
        if found is None:
            raise KeyError(key)
        return found

    def _chunk(self, key: str) -> tuple[Manifest, int]:
        """Return the array and the grid position that a chunk's key names.

        Raises
        ------
        KeyError
            It names none.
        """
        scalar = self._manifests.get(key)
        if scalar is not None and not scalar.grid_shape:
            return scalar, 0
        cells = key.rpartition("c/")[2]
        manifest = self._manifests[key.removesuffix(cells)]
        position = grid_position(cells.split("/"), manifest.grid_shape)
        if position is None:
            raise KeyError(key)
        return manifest, position

    def __iter__(self) -> Iterator[str]:
        yield from self._documents
        for prefix, manifest in self._manifests.items():
            positions = np.union1d(manifest.grid_position, np.array([*manifest.inline], np.uint64))
            for position in positions.astype(np.int64).tolist():
                cells = np.unravel_index(position, manifest.grid_shape) if manifest.grid_shape else ()
                yield prefix + "/".join(map(str, cells))

    def __len__(self) -> int:
        return len(self._documents) + sum(map(len, self._manifests.values()))


def chunk_reference(manifest: Manifest, position: int) -> bytes | Reference | None:
    """Return what a manifest has for the chunk at a linear grid position; None where it is absent."""
    if position in manifest.inline:
        return manifest.inline[position]
    # For a Python integer, NumPy would convert the whole column.
    row = int(np.searchsorted(manifest.grid_position, np.uint64(position)))
    if row == len(manifest.grid_position) or manifest.grid_position[row] != position:
        return None
    which = 0 if manifest.location_index is None else manifest.location_index[row]
    return Reference(
        url=manifest.locations[which],
        byte_offset=int(manifest.byte_offset[row]),
        byte_length=int(manifest.byte_length[row]),
    )


class FsspecLookup(Mapping[str, bytes | Reference]):
    """What the keys of fsspec's references refer to, as its reference filesystem understands them.

    Parameters
    ----------
    references
        The attribute ``references`` of a `ReferenceFileSystem`: of each key, text, bytes, a URL, or URL,
        offset and length.
    """

    def __init__(self, references: Mapping[str, JSON]) -> None:
        self._references = references

    def __getitem__(self, key: str) -> bytes | Reference:
        value = self._references[key]
        if isinstance(value, str):
            value = value.encode()
        if isinstance(value, bytes):
            return base64.b64decode(value[len(_BASE64) :]) if value.startswith(_BASE64) else value
        url, *span = value
        if not isinstance(url, str):
            raise ReferencesError(f"{key}: a reference without a URL; write the URL into the references")
        byte_offset, byte_length = span or (0, None)
        return Reference(url=url, byte_offset=byte_offset, byte_length=byte_length)

    def __iter__(self) -> Iterator[str]:
        return iter(self._references)

    def __len__(self) -> int:
        return len(self._references)

    def __contains__(self, key: object) -> bool:
        return key in self._references
