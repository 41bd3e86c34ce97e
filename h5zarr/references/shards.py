"""Several chunks in one object: Zarr's codec ``sharding_indexed`` (Zarr v3 core, "Sharding codec") (pure).

A shard is its chunks' bytes one after the other, in any order, and an index at the end: where each chunk
begins and how long it is, little-endian, with a CRC-32C.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import google_crc32c
import numpy as np

from h5zarr.dtype_json import NUMPY_TYPE
from h5zarr.model import JSON, Manifest, Shape, UInt64Column, grid_shape
from h5zarr.references.extensions import name_of

_ABSENT = np.uint64(2**64 - 1)
_MOST_CHUNKS = 16384
"""In one shard: whoever reads one chunk reads the index of all, 16 bytes each."""
_CODEC = "sharding_indexed"
_VOID_TYPE = re.compile(rf"r\d+|raw_bytes|structured|struct|{re.escape(NUMPY_TYPE)}")
_INDEX_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharding:
    """How an array's chunks are packed into shards."""

    grid_shape: Shape
    """(rank,) Number of chunks of the array along each dimension (grid cells)."""
    counts: Shape
    """(rank,) Number of chunks in a shard along each dimension."""

    @property
    def shard_grid_shape(self) -> Shape:
        """(rank,) Number of shards of the array along each dimension."""
        return grid_shape(self.grid_shape, self.counts)

    def place(self, grid_position: UInt64Column) -> tuple[UInt64Column, UInt64Column]:
        """Return in which shard each chunk is, and where in its index: (n,) linear positions, C order.

        Parameters
        ----------
        grid_position
            (n,) linear positions of chunks in the array's grid, C order.
        """
        cells = np.unravel_index(grid_position.astype(np.int64), self.grid_shape)
        pairs = [divmod(axis, count) for axis, count in zip(cells, self.counts, strict=True)]
        shard = np.ravel_multi_index([shard for shard, _ in pairs], self.shard_grid_shape)
        entry = np.ravel_multi_index([entry for _, entry in pairs], self.counts)
        return shard.astype(np.uint64), entry.astype(np.uint64)

    def index(self, entry: UInt64Column, byte_length: UInt64Column) -> bytes:
        """Return the index of one shard, with its checksum.

        Parameters
        ----------
        entry
            (n,) where each chunk stands in the index, in the order of their bytes in the shard.
        byte_length
            (n,) how long each chunk is (bytes).
        """
        table = np.full((math.prod(self.counts), 2), _ABSENT, "<u8")
        ends = np.cumsum(byte_length)
        table[entry, 0] = ends - byte_length
        table[entry, 1] = byte_length
        content = table.tobytes()
        checksum: int = google_crc32c.value(content)
        return content + checksum.to_bytes(4, "little")

    def in_metadata(self, metadata: Mapping[str, JSON]) -> dict[str, JSON]:
        """Return an array's ``zarr.json`` with its chunks in shards."""
        chunk_shape = metadata["chunk_grid"]["configuration"]["chunk_shape"]
        shard_shape = [length * count for length, count in zip(chunk_shape, self.counts, strict=True)]
        codec = {
            "name": _CODEC,
            "configuration": {
                "chunk_shape": chunk_shape,
                "codecs": metadata["codecs"],
                "index_codecs": _INDEX_CODECS,
                "index_location": "end",
            },
        }
        grid = {"name": "regular", "configuration": {"chunk_shape": shard_shape}}
        return {**metadata, "chunk_grid": grid, "codecs": [codec]}


def choose_sharding(metadata: Mapping[str, JSON], manifest: Manifest, shard_bytes: int) -> Sharding | None:
    """Return how to pack an array's chunks into shards; None where it has nothing to pack.

    A shard takes whole rows of chunks, along the last dimensions first: in the order of most files.
    Rectilinear grids have no shards, nor have arrays that are in shards already, nor those of raw
    bytes and compounds, of which zarr-python 3.1 reads no shards.

    Parameters
    ----------
    metadata
        The array's ``zarr.json``.
    manifest
        Its chunks.
    shard_bytes
        How long a shard becomes, about (bytes).
    """
    is_sharded = any(name_of(codec) == _CODEC for codec in metadata["codecs"])
    is_void = bool(_VOID_TYPE.fullmatch(name_of(metadata["data_type"])))
    if is_sharded or is_void or metadata["chunk_grid"]["name"] != "regular" or not len(manifest):
        return None
    byte_length = int(manifest.byte_length.sum()) + sum(map(len, manifest.inline.values()))
    left = min(max(shard_bytes * len(manifest) // max(byte_length, 1), 1), _MOST_CHUNKS)
    counts = []
    for cells in reversed(manifest.grid_shape):
        counts.append(min(cells, left))
        left //= counts[-1]
    sharding = Sharding(grid_shape=manifest.grid_shape, counts=tuple(reversed(counts)))
    return sharding if math.prod(counts) > 1 else None
