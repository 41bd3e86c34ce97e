"""Stored chunks, decoded by zarr-python and encoded with other codecs, many at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import zarr
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import MemoryStore

from h5zarr.model import JSON, Shape
from h5zarr.references.keys import DEFAULT, METADATA_KEY

_ELEMENTS_AT_ONCE = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcoder:
    """Changes the codecs of an array's chunks.

    Chunks of one shape are put on top of one another as an array of its own: zarr-python decodes
    and encodes all of it at once, and none is at the edge, where it would lose what is beyond.
    """

    metadata: Mapping[str, JSON]
    """The array's ``zarr.json``."""
    codecs: Sequence[JSON]
    """The new codecs."""

    def __call__(self, contents: Sequence[bytes | memoryview], shapes: Sequence[Shape]) -> list[bytes]:
        """Return chunks with the new codecs.

        Parameters
        ----------
        contents
            (n,) stored bytes of chunks.
        shapes
            (n,) their shapes (elements).
        """
        encoded: list[bytes] = []
        pairs = zip(contents, shapes, strict=True)
        for shape, same in groupby(pairs, key=lambda pair: pair[1]):
            chunks = [content for content, _ in same]
            # Nothing can be put on top of a chunk without dimensions.
            count = max(1, _ELEMENTS_AT_ONCE // max(1, math.prod(shape))) if shape else 1
            for start in range(0, len(chunks), count):
                encoded += self._stack(chunks[start : start + count], shape)
        return encoded

    def _stack(self, contents: Sequence[bytes | memoryview], chunk_shape: Shape) -> list[bytes]:
        grid = (len(contents), *(1 for _ in chunk_shape[1:])) if chunk_shape else ()
        names = DEFAULT.keys("/", grid, np.arange(len(contents), dtype=np.uint64))
        buffer = default_buffer_prototype().buffer
        stored = dict(zip(names, (buffer.from_bytes(bytes(content)) for content in contents), strict=True))
        source = self._open(stored, len(contents), chunk_shape, self.metadata["codecs"])
        encoded: dict[str, Buffer] = {}
        target = self._open(encoded, len(contents), chunk_shape, self.codecs)
        target[...] = source[...]
        return [encoded[name].to_bytes() for name in names]

    def _open(
        self, values: dict[str, Buffer], count: int, chunk_shape: Shape, codecs: Sequence[JSON]
    ) -> zarr.Array[Any]:
        """Return an array of chunks on top of one another."""
        shape = (count * chunk_shape[0], *chunk_shape[1:]) if chunk_shape else ()
        metadata = {
            **self.metadata,
            "shape": list(shape),
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk_shape)}},
            "codecs": list(codecs),
            "attributes": {},
        }
        text = json.dumps(metadata).encode()
        values[METADATA_KEY] = default_buffer_prototype().buffer.from_bytes(text)
        array = zarr.open_array(MemoryStore(values), mode="r+")
        # A chunk of nothing but fill values is stored like any other: zeros and NaN have several forms.
        return array.with_config({"write_empty_chunks": True})
