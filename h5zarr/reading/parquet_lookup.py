"""What the keys of Parquet references refer to; each of their files is read when a chunk of it is wanted."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from h5zarr.errors import ReferencesError
from h5zarr.model import JSON, Manifest, Shape, grid_shape
from h5zarr.prefetch import one_line, redact
from h5zarr.reading.data_files import reach
from h5zarr.reading.lookup import Reference, chunk_reference
from h5zarr.references.formats import reading
from h5zarr.references.keys import (
    CONSOLIDATED_KEY,
    METADATA_KEY,
    chunk_grid_shape,
    grid_position,
)
from h5zarr.references.parquet_records import decode, join

_V2_METADATA_KEY = ".zarray"


class ParquetLookup(Mapping[str, bytes | Reference]):
    """What the keys of Parquet references refer to, of Zarr v3 or v2.

    Parameters
    ----------
    url
        Path or fsspec URL of their folder.
    document
        What its file ``.zmetadata`` holds.
    storage_options
        Options of its fsspec filesystem.

    Raises
    ------
    ReferencesError
        A stub tells of another grid than the array has: chunks without a row would read as fill values.
    """

    def __init__(self, url: str, document: Mapping[str, JSON], storage_options: Mapping[str, Any]) -> None:
        metadata = document["metadata"]
        self._url, self._storage_options = url, dict(storage_options)
        self._record_size: int = document["record_size"]
        # Others leave out files of absent chunks only.
        self._complete = "h5zarr" in document
        self._grids = {
            key.removesuffix(f"/{_V2_METADATA_KEY}"): _grid(own)
            for key, own in metadata.items()
            if key.endswith(f"/{_V2_METADATA_KEY}")
        }
        _check_stubs(url, metadata, self._grids)
        self._documents = {key: json.dumps(own).encode() for key, own in _documents(metadata)}
        self._records: dict[tuple[str, int], Manifest | None] = {}

    def __getitem__(self, key: str) -> bytes | Reference:
        document = self._documents.get(key)
        if document is not None:
            return document
        path, _, cells = key.rpartition("/")
        position = grid_position(cells.split("."), self._grids[path])
        found = None if position is None else self._find(path, position)
        if found is None:
            raise KeyError(key)
        return found

    def _find(self, path: str, position: int) -> bytes | Reference | None:
        number = position // self._record_size
        if (path, number) not in self._records:
            self._records[path, number] = self._read(path, number)
        manifest = self._records[path, number]
        return None if manifest is None else chunk_reference(manifest, position)

    def _read(self, path: str, number: int) -> Manifest | None:
        """Return the references of a file; None where there is no such file."""
        grid = self._grids[path]
        start = number * self._record_size
        count = min(self._record_size, math.prod(grid) - start)
        name = f"{path}/refs.{number}.parq"
        content = self._content(name)
        try:
            return None if content is None else join(grid, [decode(content, start, count)])
        except ValueError as error:
            found = f"{redact(self._url)}: {name} is damaged: {one_line(error)}"
            raise ReferencesError(f"{found}; copy or make the references anew") from error

    def _content(self, name: str) -> bytes | None:
        with reading(self._url):
            filesystem, root = reach(self._url, self._storage_options)
            try:
                content: bytes = filesystem.cat_file(f"{root.rstrip('/')}/{name}")
            except FileNotFoundError:
                if not self._complete:
                    return None
                raise ReferencesError(f"they lack a file, {name}; copy all of them") from None
        return content

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_records": {}}

    def __iter__(self) -> Iterator[str]:
        yield from self._documents
        for path, grid in self._grids.items():
            for position in range(math.prod(grid)):
                if self._find(path, position) is not None:
                    cells = np.unravel_index(position, grid)
                    yield f"{path}/{'.'.join(map(str, cells))}"

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _grid(metadata: Mapping[str, JSON]) -> Shape:
    """Return an array's grid as fsspec computes it, which gives one chunk a dimension."""
    return grid_shape(tuple(metadata["shape"]), tuple(metadata["chunks"])) or (1,)


def _check_stubs(url: str, metadata: Mapping[str, JSON], grids: Mapping[str, Shape]) -> None:
    """Check that each array of Zarr v3 has a row for each chunk, or none at all."""
    for key, own in metadata.items():
        if key.rpartition("/")[2] != METADATA_KEY or own.get("node_type") != "array":
            continue
        path = key.rpartition("/")[0]
        with reading(url):
            grid = chunk_grid_shape(own) or (1,)
        if grids.get(path) not in (grid, (0,) * len(grid)):
            raise ReferencesError(
                f"{redact(url)}: {path}/{_V2_METADATA_KEY} does not tell the grid {grid} of the array; make"
                " the references anew"
            )


def _documents(metadata: Mapping[str, JSON]) -> Iterator[tuple[str, JSON]]:
    """Yield what readers of Zarr shall see: without stubs where there is Zarr v3's metadata."""
    if METADATA_KEY not in metadata:
        yield CONSOLIDATED_KEY, {"zarr_consolidated_format": 1, "metadata": metadata}
        yield from metadata.items()
        return
    for key, own in metadata.items():
        if key.rpartition("/")[2] == METADATA_KEY:
            yield key, own
