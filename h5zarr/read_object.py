"""One dataset or group of an open HDF5 file, read into the model."""

from __future__ import annotations

import math
import posixpath
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5, h5a, h5d, h5g, h5p, h5s

from h5zarr import libhdf5
from h5zarr.chunk_index import contiguous_index, empty_index, read_chunk_index
from h5zarr.datatypes import depends_on_padding
from h5zarr.errors import Problem, SourceError, Untranslatable
from h5zarr.filters import plan_masks
from h5zarr.model import (
    Attribute,
    ChunkIndex,
    Dataset,
    ExternalFile,
    Filter,
    Group,
    Layout,
    Shape,
    UInt64Column,
    grid_shape,
)
from h5zarr.neighbours import Neighbourhood
from h5zarr.read_values import (
    READ_ERRORS,
    KnownType,
    NameOf,
    TypeCache,
    read_attribute,
    read_stored_elements,
    read_values,
    space_shape,
)
from h5zarr.source import open_source
from h5zarr.virtual import virtual_chunks
from h5zarr.walk import encode_path, is_dataset

_LAYOUTS = {
    h5d.COMPACT: Layout.COMPACT,
    h5d.CONTIGUOUS: Layout.CONTIGUOUS,
    h5d.CHUNKED: Layout.CHUNKED,
    h5d.VIRTUAL: Layout.VIRTUAL,
}
_MOST_CLIENT_DATA_OF_H5PY = 16
_LARGEST_PADDING_CHECK_BYTES = 4 * 2**20
_SAME_FILE = "."
_DIMENSION_LIST = b"DIMENSION_LIST"
# Back references of dimension scales: as many as there are variables, and DIMENSION_LIST tells the same.
_SKIPPED_ATTRIBUTES = frozenset({b"REFERENCE_LIST"})


@dataclass(kw_only=True, slots=True)
class InlineBudget:
    """How much of the file is read with the scan."""

    threshold: int
    """Datasets whose stored chunks take at most this much in all are read (bytes)."""
    remaining: int
    """What may still be read (bytes)."""


@dataclass(kw_only=True, slots=True)
class Reader:
    """What reading one object needs to know of its file and of what was read before."""

    file: h5py.h5f.FileID
    """The open file."""
    name_of: NameOf
    """Finds the path of a referenced object."""
    budget: InlineBudget
    """How much may be read with the scan; shared by all files of a scan."""
    neighbourhood: Neighbourhood
    """Which other files the file may name."""
    problems: list[Problem]
    """Where to put what cannot be read."""
    url: str | None = None
    """URL of the file, where an external link led to it; None: the scanned file."""
    types: TypeCache = field(default_factory=TypeCache)
    """The datatypes of the file."""


def read_group(reader: Reader, inner_path: str, names: list[str]) -> Group:
    """Return a group; what cannot be read of it becomes a problem.

    Parameters
    ----------
    reader
        The file.
    inner_path
        Absolute path in the file that holds it.
    names
        Absolute paths in the scanned file, the first of them for the hierarchy.
    """
    attributes: tuple[Attribute, ...] = ()
    try:
        group = h5g.open(reader.file, encode_path(inner_path))
        order = group.get_create_plist().get_attr_creation_order()
        attributes, _ = _read_attributes(reader, group, names[0], order)
    except READ_ERRORS as error:
        reader.problems.append(_unreadable(names[0], "the group's attributes", error))
    return Group(path=names[0], other_names=tuple(names[1:]), attributes=attributes)


def read_dataset(reader: Reader, inner_path: str, names: list[str]) -> Dataset | None:
    """Return a dataset, or None and a problem where h5py cannot read it; parameters as `read_group`."""
    try:
        return _read_dataset(reader, inner_path, names)
    except READ_ERRORS as error:
        reader.problems.append(_unreadable(names[0], "the dataset", error))
    except Untranslatable as refused:
        reader.problems.append(Problem(path=names[0], found=refused.found, remedy=refused.remedy))
    return None


def _read_dataset(reader: Reader, inner_path: str, names: list[str]) -> Dataset:
    dataset = h5d.open(reader.file, encode_path(inner_path))
    creation = dataset.get_create_plist()
    known = reader.types[dataset.get_type()]
    space = dataset.get_space()
    shape = space_shape(space)
    layout = _layout(creation)
    chunk_shape = tuple(creation.get_chunk()) if layout is Layout.CHUNKED else None
    index = _chunk_index(reader, dataset, space, layout, chunk_shape, known)
    attributes, scales = _read_attributes(reader, dataset, names[0], creation.get_attr_creation_order())
    filters = _filters(creation)
    partial = bool(filters) and libhdf5.leaves_partial_chunks_unfiltered(creation)
    return Dataset(
        path=names[0],
        other_names=tuple(names[1:]),
        attributes=attributes,
        datatype=known.datatype,
        shape=shape,
        maximum_shape=_maximum_shape(space) if shape is not None else None,
        layout=layout,
        memory_dtype=known.packed_dtype,
        stored_type=known.stored_type,
        memory_type=known.packed_type.encode() if known.packed_type is not None else None,
        fill_value=_fill_value(creation, known),
        unfiltered_partial_chunks=partial,
        dimension_scales=scales,
        external_files=_external_files(reader, creation, shape, known) if layout is Layout.EXTERNAL else (),
        **{
            "chunk_shape": chunk_shape,
            "filters": filters,
            "chunk_index": index,
            "urls": (reader.url,) if reader.url else (),
            **_read_data(reader, dataset, creation, layout, known, index, filters, partial),
        },
    )


def _read_data(
    reader: Reader,
    dataset: h5d.DatasetID,
    creation: h5p.PropDCID,
    layout: Layout,
    known: KnownType,
    index: ChunkIndex,
    filters: tuple[Filter, ...],
    partial: bool,
) -> dict[str, Any]:
    """Return those fields of a dataset for which its data are read, few or none of most datasets."""
    shape = space_shape(dataset.get_space())
    if shape is None:
        return {}
    if layout is Layout.VIRTUAL:
        _check_virtual_sources(reader, creation)
    if known.datatype.on_heap:
        return {"values": _values(reader, dataset, shape, known)}
    if layout is Layout.VIRTUAL:
        return _virtual_data(reader, dataset, creation, shape, known)
    chunk_shape = tuple(creation.get_chunk()) if layout is Layout.CHUNKED else None
    masks = plan_masks(index, filters, shape, chunk_shape or shape, partial)
    return {
        "stored_bytes": _stored_bytes(reader, dataset, layout, chunk_shape, index, masks.untold),
        "clean_padding": _has_clean_padding(dataset, shape, known, layout),
    }


def _layout(creation: h5p.PropDCID) -> Layout:
    layout = _LAYOUTS[creation.get_layout()]
    if layout is Layout.CONTIGUOUS and creation.get_external_count() > 0:
        return Layout.EXTERNAL
    return layout


def _maximum_shape(space: h5s.SpaceID) -> tuple[int | None, ...]:
    return tuple(
        None if extent == h5s.UNLIMITED else extent for extent in space.get_simple_extent_dims(True)
    )


def _chunk_index(
    reader: Reader,
    dataset: h5d.DatasetID,
    space: h5s.SpaceID,
    layout: Layout,
    chunk_shape: Shape | None,
    known: KnownType,
) -> ChunkIndex:
    shape = space_shape(space)
    if shape is None:
        return empty_index(())
    if chunk_shape is not None:
        if 0 in chunk_shape:
            raise ValueError(f"its chunk shape is {chunk_shape}")
        if 0 in shape:
            return empty_index(grid_shape(shape, chunk_shape))
        return read_chunk_index(dataset, shape, _maximum_shape(space), chunk_shape)
    byte_length = math.prod(shape) * known.datatype.byte_length
    if layout is Layout.COMPACT and byte_length:
        return contiguous_index(shape, 0, byte_length)
    byte_offset = dataset.get_offset() if layout is Layout.CONTIGUOUS and byte_length else None
    if byte_offset is None:
        return empty_index(tuple(min(extent, 1) for extent in shape))
    if byte_offset + byte_length > reader.file.get_filesize():
        raise ValueError(f"{byte_length} contiguous bytes at {byte_offset} reach over the end of the file")
    return contiguous_index(shape, byte_offset, byte_length)


def _filters(creation: h5p.PropDCID) -> tuple[Filter, ...]:
    return tuple(_filter(creation, number) for number in range(creation.get_nfilters()))


def _filter(creation: h5p.PropDCID, number: int) -> Filter:
    identifier, flags, client_data, name = creation.get_filter(number)
    if len(client_data) >= _MOST_CLIENT_DATA_OF_H5PY:
        client_data = libhdf5.filter_client_data(creation, number)
    return Filter(
        identifier=identifier,
        name=name.decode("utf-8", "replace"),
        flags=flags,
        client_data=tuple(client_data),
    )


def _fill_value(creation: h5p.PropDCID, known: KnownType) -> bytes | None:
    if known.packed_type is None or known.packed_dtype is None:
        return None
    defined = creation.fill_value_defined()
    if defined == h5d.FILL_VALUE_UNDEFINED:
        return None
    if defined == h5d.FILL_VALUE_DEFAULT:
        return bytes(known.packed_dtype.itemsize)
    return libhdf5.fill_value(creation, known.packed_type)


def _has_clean_padding(dataset: h5d.DatasetID, shape: Shape, known: KnownType, layout: Layout) -> bool:
    """Look whether stored strings are as h5py reads them, where only the values can tell."""
    if known.packed_type is None or not depends_on_padding(known.datatype) or layout is Layout.EXTERNAL:
        return False
    byte_length = math.prod(shape) * known.datatype.byte_length
    if not 0 < byte_length <= _LARGEST_PADDING_CHECK_BYTES:
        return byte_length == 0
    values = np.zeros(shape, known.packed_dtype)
    dataset.read(h5s.ALL, h5s.ALL, values, mtype=known.packed_type)
    return values.tobytes() == read_stored_elements(dataset, byte_length)


def _external_files(
    reader: Reader, creation: h5p.PropDCID, shape: Shape | None, known: KnownType
) -> tuple[ExternalFile, ...]:
    """Return the pieces of external storage, as far as the dataset's elements reach."""
    remaining = math.prod(shape or ()) * known.datatype.byte_length
    pieces: list[ExternalFile] = []
    for number in range(creation.get_external_count()):
        encoded, byte_offset, byte_length = creation.get_external(number)
        name = encoded.decode("utf-8", "surrogateescape")
        length = remaining if byte_length == h5s.UNLIMITED else min(byte_length, remaining)
        remaining -= length
        if length:
            url = reader.neighbourhood.resolve(name)
            _check_external_file(reader.neighbourhood, url, byte_offset + length)
            public = reader.neighbourhood.publish(url)
            pieces.append(ExternalFile(name=name, url=public, byte_offset=byte_offset, byte_length=length))
    return tuple(pieces)


def _check_external_file(neighbourhood: Neighbourhood, url: str, end: int) -> None:
    """Look whether an external file reaches to ``end`` (bytes); libhdf5 takes the rest for zeros."""
    if not neighbourhood.is_local:
        return
    path = Path(url.removeprefix("file://"))
    if not path.is_file() or path.stat().st_size < end:
        raise Untranslatable(
            f"external storage in {path.name}, which is missing or ends before byte {end}",
            "put the file beside the HDF5 file",
        )


def _check_virtual_sources(reader: Reader, creation: h5p.PropDCID) -> None:
    """Refuse a virtual dataset that names files which may not be opened.

    libhdf5 opens the sources itself; through a remote file it would look for them on this machine.
    """
    for number in range(creation.get_virtual_count()):
        name = creation.get_virtual_filename(number)
        if name == _SAME_FILE:
            continue
        reader.neighbourhood.resolve(name)
        if not reader.neighbourhood.is_local:
            raise Untranslatable(
                f"a virtual dataset of a remote file, with sources in {posixpath.basename(name)}",
                "convert local copies of the files, then rewrite the URLs with --public-url",
            )


def _values(reader: Reader, dataset: h5d.DatasetID, shape: Shape, known: KnownType) -> Any:
    """Read the values of a dataset whose stored bytes are addresses in a heap."""
    pointer_bytes = math.prod(shape) * known.datatype.byte_length
    if pointer_bytes > reader.budget.remaining:
        raise _over_limit("values on a heap (variable-length or references)")
    values = read_values(dataset, shape, known, reader.name_of)
    byte_length = value_byte_length(values)
    if byte_length > reader.budget.remaining:
        raise _over_limit("values on a heap (variable-length or references)")
    reader.budget.remaining -= byte_length
    return values


def _virtual_data(
    reader: Reader, dataset: h5d.DatasetID, creation: h5p.PropDCID, shape: Shape, known: KnownType
) -> dict[str, Any]:
    """Return the chunks of a virtual dataset's sources, or its elements where they do not fit."""
    sources = _Sources(reader=reader)
    try:
        chunks = virtual_chunks(creation, shape, _fill_value(creation, known), sources.read)
    except Untranslatable:
        chunks = None
    if chunks is None or chunks.source.stored_type != known.stored_type:
        return {"elements": _elements(reader, dataset, shape, known)}
    return {
        "chunk_shape": chunks.chunk_shape,
        "filters": chunks.source.filters,
        "chunk_index": chunks.index,
        "urls": chunks.urls,
        "url_index": chunks.url_index,
    }


@dataclass(kw_only=True, slots=True)
class _Sources:
    """The source datasets of one virtual dataset, each read once."""

    reader: Reader
    known: dict[tuple[str, str], tuple[str, Dataset] | None] = field(default_factory=dict)

    def read(self, filename: str, path: str) -> tuple[str, Dataset] | None:
        """Return URL and description of a source; None where there is none, which libhdf5 takes for fill.

        Raises
        ------
        Untranslatable
            There is one, but it cannot be described.
        """
        if (filename, path) not in self.known:
            self.known[filename, path] = self._read(filename, path)
        return self.known[filename, path]

    def _read(self, filename: str, path: str) -> tuple[str, Dataset] | None:
        place = self.reader.neighbourhood
        url = place.url if filename == _SAME_FILE else place.resolve(filename)
        try:
            with open_source(url) as opened:
                inner = replace(
                    self.reader,
                    file=opened.file.id,
                    budget=InlineBudget(threshold=0, remaining=0),
                    neighbourhood=replace(place, url=url, public_url=place.publish(url)),
                    problems=[],
                    types=TypeCache(),
                )
                if not _is_dataset(opened.file, path):
                    return None
                dataset = read_dataset(inner, path, [path])
        except SourceError:
            return None
        if dataset is None:
            raise Untranslatable(inner.problems[0].found, inner.problems[0].remedy)
        return place.publish(url), dataset


def _is_dataset(file: h5py.File, path: str) -> bool:
    try:
        return is_dataset(file, path)
    except READ_ERRORS:
        return False


def _elements(reader: Reader, dataset: h5d.DatasetID, shape: Shape, known: KnownType) -> bytes:
    """Read the elements of a virtual dataset."""
    if known.packed_dtype is None:
        raise TypeError(f"h5py has no NumPy type for HDF5's {known.datatype.datatype_class}")
    byte_length = math.prod(shape) * known.packed_dtype.itemsize
    if byte_length > reader.budget.remaining:
        raise _over_limit("a virtual dataset, whose data are in other datasets")
    reader.budget.remaining -= byte_length
    elements = np.zeros(shape, known.packed_dtype)
    if elements.size:
        dataset.read(h5s.ALL, h5s.ALL, elements, mtype=known.packed_type)
    return elements.tobytes()


def value_byte_length(values: Any) -> int:
    """Return about how many bytes the values take inline, those on the heap included."""
    if values.dtype.names is not None:
        return sum(value_byte_length(values[name]) for name in values.dtype.names)
    if values.dtype != object:
        return int(values.nbytes)
    return sum(
        value_byte_length(value) if hasattr(value, "dtype") else len(value) for value in values.reshape(-1)
    )


def _stored_bytes(
    reader: Reader,
    dataset: h5d.DatasetID,
    layout: Layout,
    chunk_shape: Shape | None,
    index: ChunkIndex,
    untold: UInt64Column,
) -> dict[int, bytes]:
    """Read the stored chunks of a dataset that is compact or small, or whose masks nothing tells."""
    total = int(index.byte_length.sum())
    if layout is Layout.COMPACT or 0 < total <= min(reader.budget.threshold, reader.budget.remaining):
        reader.budget.remaining -= total
        wanted = index.grid_position
    else:
        wanted = untold[: _affordable(reader, index, untold)]
    if chunk_shape is None:
        return {int(position): read_stored_elements(dataset, total) for position in wanted}
    return {
        int(position): _read_chunk(dataset, index.grid_shape, chunk_shape, int(position)) for position in wanted
    }


def _affordable(reader: Reader, index: ChunkIndex, untold: UInt64Column) -> int:
    """Return the number of chunks to read: all, or none where they are over the limit."""
    total = int(index.byte_length[np.isin(index.grid_position, untold)].sum())
    if total > reader.budget.remaining:
        return 0
    reader.budget.remaining -= total
    return len(untold)


def _read_chunk(dataset: h5d.DatasetID, grid: Shape, chunk_shape: Shape, position: int) -> bytes:
    cell = np.unravel_index(position, grid)
    chunk_offset = tuple(int(at) * extent for at, extent in zip(cell, chunk_shape, strict=True))
    stored: bytes = dataset.read_direct_chunk(chunk_offset)[1]
    return stored


def _read_attributes(
    reader: Reader, owner: Any, path: str, creation_order: int
) -> tuple[tuple[Attribute, ...], tuple[tuple[str, ...], ...]]:
    """Return the attributes of an object, and the dimension scales that one of them names."""
    attributes: list[Attribute] = []
    scales: tuple[tuple[str, ...], ...] = ()
    for name in _attribute_names(owner, creation_order):
        try:
            attribute = read_attribute(owner, name, reader.types, reader.name_of)
        except READ_ERRORS as error:
            reader.problems.append(_unreadable_attribute(path, name, error))
            continue
        if name == _DIMENSION_LIST and attribute.value is not None:
            scales = tuple(tuple(axis) for axis in attribute.value)
        else:
            attributes.append(attribute)
    return tuple(attributes), scales


def _attribute_names(owner: Any, creation_order: int) -> list[bytes]:
    if h5a.get_num_attrs(owner) == 0:
        return []
    names: list[bytes] = []
    order = h5.INDEX_CRT_ORDER if creation_order & h5p.CRT_ORDER_TRACKED else h5.INDEX_NAME
    h5a.iterate(owner, names.append, index_type=order)
    return [name for name in names if name not in _SKIPPED_ATTRIBUTES]


def _over_limit(found: str) -> Untranslatable:
    return Untranslatable(
        f"{found}, more of them than may go inline",
        "raise --inline-limit, or leave out other such datasets with --exclude",
    )


def _unreadable(path: str, what: str, error: BaseException) -> Problem:
    return Problem(
        path=path,
        found=f"h5py cannot read {what}: {' '.join(str(error).split())}",
        remedy="read it with h5dump; if that fails too, the file is damaged",
    )


def _unreadable_attribute(path: str, name: bytes, error: BaseException) -> Problem:
    return Problem(
        path=path,
        attribute=name.decode("utf-8", "backslashreplace"),
        found=f"h5py cannot read the attribute: {' '.join(str(error).split())}",
        remedy="read it from the HDF5 file with h5dump",
    )
