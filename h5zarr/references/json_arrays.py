"""The arrays of references as JSON, with a manifest of each."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from operator import itemgetter, methodcaller

import numpy as np

from h5zarr.errors import ReferencesError
from h5zarr.model import JSON, ArrayNode, Manifest, Shape, UInt32Column, UInt64Column
from h5zarr.references import keys
from h5zarr.references.json_document import ReferenceDocument, ReferenceRows
from h5zarr.references.keys import ChunkKeys

_BASE64 = b"base64:"
# What version 1 allows in a template is more; kerchunk writes this.
_TEMPLATE = re.compile(r"\{\{(\w+)\}\}")


def array_nodes(
    metadata: Mapping[str, Mapping[str, JSON]], chunks: Mapping[str, JSON], document: ReferenceDocument
) -> dict[str, ArrayNode]:
    """Return each array by its path.

    Parameters
    ----------
    metadata
        The ``zarr.json`` of each array by its path.
    chunks
        What of the document's references is no metadata.
    document
        The references.

    Raises
    ------
    ArithmeticError, AttributeError, LookupError, TypeError, ValueError, ReferencesError
        They are not those of chunks of these arrays.
    """
    arrays = {path: _Array.of(path, own) for path, own in metadata.items()}
    _sort_out(chunks, arrays)
    if document.rows is not None:
        _sort_out_rows(document.rows, arrays)
    expand = _expander(document.members.get("templates") or {})
    return {path: array.node(document.rows, expand) for path, array in arrays.items()}


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


# Which array a reference is of -----------------------------------------------------------


def _sort_out(chunks: Mapping[str, JSON], arrays: Mapping[str, _Array]) -> None:
    """Give each array the references of its chunks, whose keys mostly stand side by side."""
    names, values = list(chunks), list(chunks.values())
    start = 0
    while start < len(names):
        array, end = _owner(names[start], arrays), start + 1
        if array is None and not isinstance(values[start], str | bytes):
            raise _no_array(names[start])
        if array is not None:
            end = _run_end(names, end, array.prefix)
            array.names.extend(names[start:end])
            array.values.extend(values[start:end])
        start = end


def _sort_out_rows(rows: ReferenceRows, arrays: Mapping[str, _Array]) -> None:
    start = 0
    while start < len(rows):
        array = _owner(rows.key(start), arrays)
        if array is None:
            raise _no_array(rows.key(start))
        start += array.take_run(rows, start)


def _no_array(key: str) -> ReferencesError:
    return ReferencesError(
        f"{key}: refers to bytes of a file, but there is no zarr.json of an array above it; make the"
        " references anew"
    )


def _owner(key: str, arrays: Mapping[str, _Array]) -> _Array | None:
    """Return the array that a key is below; None where it is below none."""
    path = f"/{key}"
    while path and path not in arrays:
        path = path.rpartition("/")[0]
    if path and not key.startswith(arrays[path].prefix):
        raise ValueError(f"{key}: is no chunk key of its array")
    return arrays.get(path)


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


# Arrays ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _References:
    """Chunks in files, in any order."""

    grid_position: UInt64Column
    """(n,) Linear position of each in the grid, C order."""
    byte_offset: UInt64Column
    """(n,) Where it begins (bytes)."""
    byte_length: UInt64Column
    """(n,) Its stored size (bytes)."""
    location_index: UInt32Column
    """(n,) Which of ``locations`` it is in."""
    locations: tuple[str, ...]
    """URLs."""


_NO_REFERENCES = _References(
    grid_position=np.zeros(0, np.uint64),
    byte_offset=np.zeros(0, np.uint64),
    byte_length=np.zeros(0, np.uint64),
    location_index=np.zeros(0, np.uint32),
    locations=(),
)


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
    names: list[str] = field(default_factory=list)
    """(n,) The keys of its chunks, but for those in rows."""
    values: list[JSON] = field(default_factory=list)
    """(n,) What each refers to."""
    runs: list[tuple[int, UInt64Column]] = field(default_factory=list)
    """First row of each run of rows, and the grid positions of its chunks."""

    @classmethod
    def of(cls, path: str, metadata: Mapping[str, JSON]) -> _Array:
        chunk_keys, grid = ChunkKeys.of(metadata), keys.chunk_grid_shape(metadata)
        return cls(
            path=path,
            metadata=keys.DEFAULT.in_metadata(metadata),
            chunk_keys=chunk_keys,
            grid_shape=grid,
            prefix=chunk_keys.prefix(path, len(grid)),
        )

    def take_run(self, rows: ReferenceRows, start: int) -> int:
        """Take the rows from one on that are of this array, and return how many they are."""
        positions = rows.grid_positions(start, self.prefix, self.chunk_keys.separator, self.grid_shape)
        self.runs.append((start, positions))
        return len(positions)

    def node(self, rows: ReferenceRows | None, expand: Callable[[JSON], str]) -> ArrayNode:
        """Return the array.

        Raises
        ------
        ArithmeticError, LookupError, TypeError, ValueError, ReferencesError
            They are not references of its chunks, or two of one chunk.
        """
        named = self.chunk_keys.positions(self.path, self.grid_shape, self.names)
        self._check_that_each_is_once([named, *(positions for _, positions in self.runs)])
        is_inline = np.array([isinstance(value, str | bytes) for value in self.values], bool)
        stored = [_inline_bytes(value) for value in self.values if isinstance(value, str | bytes)]
        inline = dict(zip(named[is_inline].tolist(), stored, strict=True))
        others = [value for value in self.values if not isinstance(value, str | bytes)]
        references = _of_values(named[~is_inline], others)
        if rows is not None and self.runs:
            references = _joined(references, _of_runs(rows, self.runs))
        manifest = _manifest(self.grid_shape, references, inline, expand)
        return ArrayNode(path=self.path, metadata=self.metadata, manifest=manifest)

    def _check_that_each_is_once(self, parts: Sequence[UInt64Column]) -> None:
        positions = np.concatenate(parts)
        if not _rises(positions) and len(np.unique(positions)) < len(positions):
            raise ValueError(f"{self.path}: two references of one chunk")


# References ------------------------------------------------------------------------------


def _of_values(positions: UInt64Column, rows: Sequence[JSON]) -> _References:
    """Return references as they stand in a dict."""
    if not rows:
        return _NO_REFERENCES
    if not set(map(type, rows)) <= {list, tuple} or set(map(len, rows)) - {3}:
        raise ValueError("a chunk that is neither text nor URL, offset and length")
    # No `zip(*rows)`: Python's garbage collector then looks at every row.
    urls, byte_offset, byte_length = (list(map(itemgetter(at), rows)) for at in range(3))
    numbers = {url: number for number, url in enumerate(dict.fromkeys(urls))}
    return _References(
        grid_position=positions,
        byte_offset=_column(byte_offset),
        byte_length=_column(byte_length),
        location_index=np.fromiter(map(numbers.__getitem__, urls), np.uint32, len(urls)),
        locations=tuple(numbers),
    )


def _of_runs(rows: ReferenceRows, runs: Sequence[tuple[int, UInt64Column]]) -> _References:
    """Return references of which the compiled module has made rows."""
    slices = [slice(start, start + len(positions)) for start, positions in runs]
    return _References(
        grid_position=np.concatenate([positions for _, positions in runs]),
        byte_offset=np.concatenate([rows.byte_offset[run] for run in slices]),
        byte_length=np.concatenate([rows.byte_length[run] for run in slices]),
        location_index=np.concatenate([rows.location_index[run] for run in slices]),
        locations=rows.locations,
    )


def _joined(first: _References, second: _References) -> _References:
    if not len(first.grid_position):
        return second
    return _References(
        grid_position=np.append(first.grid_position, second.grid_position),
        byte_offset=np.append(first.byte_offset, second.byte_offset),
        byte_length=np.append(first.byte_length, second.byte_length),
        location_index=np.append(
            first.location_index, second.location_index + np.uint32(len(first.locations))
        ),
        locations=(*first.locations, *second.locations),
    )


def _manifest(
    grid: Shape, references: _References, inline: Mapping[int, bytes], expand: Callable[[JSON], str]
) -> Manifest:
    locations, location_index = _distinct(references, expand)
    order = _order(references.grid_position)
    return Manifest(
        grid_shape=grid,
        locations=locations,
        grid_position=references.grid_position[order],
        byte_offset=references.byte_offset[order],
        byte_length=references.byte_length[order],
        location_index=None if location_index is None else location_index[order],
        inline=inline,
    )


def _order(positions: UInt64Column) -> slice | np.ndarray[tuple[int], np.dtype[np.intp]]:
    return slice(None) if _rises(positions) else np.argsort(positions, kind="stable")


def _rises(positions: UInt64Column) -> bool:
    return bool((positions[1:] > positions[:-1]).all())


def _distinct(
    references: _References, expand: Callable[[JSON], str]
) -> tuple[tuple[str, ...], UInt32Column | None]:
    """Return the URLs that occur, in their order and each once, and which of them each reference has."""
    if len(references.locations) < 2:
        return tuple(map(expand, references.locations)), None
    used, first = np.unique(references.location_index, return_index=True)
    full = {int(at): expand(references.locations[at]) for at in used[np.argsort(first)]}
    numbers = {url: number for number, url in enumerate(dict.fromkeys(full.values()))}
    if len(numbers) < 2:
        return tuple(numbers), None
    renumbered = np.zeros(len(references.locations), np.uint32)
    renumbered[list(full)] = [numbers[url] for url in full.values()]
    return tuple(numbers), renumbered[references.location_index]


def _column(numbers: Sequence[JSON]) -> UInt64Column:
    column = np.array(numbers)
    if column.dtype.kind not in "iu" or (column < 0).any():
        raise ValueError("an offset or a length is no count of bytes")
    return column.astype(np.uint64)


def _inline_bytes(value: str | bytes) -> bytes:
    stored = value.encode() if isinstance(value, str) else value
    return base64.b64decode(stored.removeprefix(_BASE64)) if stored.startswith(_BASE64) else stored
