"""From an HDF5 file to its `FileScan`: everything that translation needs, in HDF5's words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from h5py import h5, h5a, h5d, h5g, h5p, h5s

from h5zarr import libhdf5
from h5zarr.chunk_index import contiguous_index, empty_index, read_chunk_index
from h5zarr.datatypes import depends_on_padding
from h5zarr.errors import Problem
from h5zarr.filters import plan_masks
from h5zarr.model import (
    Attribute,
    ChunkIndex,
    Dataset,
    ExternalFile,
    FileScan,
    Filter,
    Group,
    Layout,
    Selection,
    Shape,
    UInt64Column,
    grid_shape,
)
from h5zarr.read_values import (
    READ_ERRORS,
    KnownType,
    ReferenceNames,
    TypeCache,
    read_attribute,
    read_stored_elements,
    read_values,
    space_shape,
)
from h5zarr.source import Source, open_source
from h5zarr.walk import Walk, encode_path, walk

Progress = Callable[[int, int], None]
"""Called with the number of objects done and their total."""

INLINE_THRESHOLD_BYTES = 500
INLINE_LIMIT_BYTES = 64 * 2**20

_LAYOUTS = {
    h5d.COMPACT: Layout.COMPACT,
    h5d.CONTIGUOUS: Layout.CONTIGUOUS,
    h5d.CHUNKED: Layout.CHUNKED,
    h5d.VIRTUAL: Layout.VIRTUAL,
}
_MOST_CLIENT_DATA_OF_H5PY = 16
_LARGEST_PADDING_CHECK_BYTES = 4 * 2**20
_DIMENSION_LIST = b"DIMENSION_LIST"
# Back references of dimension scales: as many as there are variables, and DIMENSION_LIST tells the same.
_SKIPPED_ATTRIBUTES = frozenset({b"REFERENCE_LIST"})


def scan(
    source: Source,
    *,
    storage_options: Mapping[str, Any] | None = None,
    public_url: str | None = None,
    group: str = "/",
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    inline_threshold: int = INLINE_THRESHOLD_BYTES,
    inline_limit: int = INLINE_LIMIT_BYTES,
    progress: Progress | None = None,
) -> FileScan:
    """Read the description and the chunk index of every dataset of an HDF5 file.

    Parameters
    ----------
    source
        Path, fsspec URL, open binary file, or open `h5py.File`.
    storage_options
        Options of the fsspec filesystem.
    public_url
        The URL to name in references, where it is not the one that is read from.
    group
        Scan from this group down.
    include, exclude
        Shell patterns of absolute dataset paths to take and to leave out.
    inline_threshold
        Datasets whose stored chunks take at most this many bytes in all are read with the scan.
    inline_limit
        At most this many bytes of values are read with the scan in all.
    progress
        Called with the number of objects done and their total.

    Raises
    ------
    SourceError
        The file cannot be read; the subclass tells why.
    GroupNotFoundError
        ``group`` is not in the file.
    """
    selection = Selection(
        root="/" + group.strip("/"), include=tuple(include), exclude=tuple(exclude)
    )
    with open_source(source, storage_options=storage_options, public_url=public_url) as opened:
        found = walk(opened.file, selection)
        reader = _Reader(
            file=opened.file.id,
            name_of=ReferenceNames(opened.file.id, found.path_of_address()),
            inline_threshold=inline_threshold,
            inline_budget=inline_limit,
            problems=found.problems,
        )
        groups, datasets = _read_objects(reader, found, selection, progress)
    return FileScan(
        source=opened.identity,
        selection=selection,
        groups=groups,
        datasets=datasets,
        soft_links=tuple(found.soft_links),
        problems=tuple(found.problems),
    )


@dataclass(kw_only=True, slots=True)
class _Reader:
    """What reading one object needs to know of the file and of what was read before."""

    file: h5py.h5f.FileID
    name_of: ReferenceNames
    inline_threshold: int
    inline_budget: int
    problems: list[Problem]
    types: TypeCache = field(default_factory=TypeCache)


def _read_objects(
    reader: _Reader, found: Walk, selection: Selection, progress: Progress | None
) -> tuple[tuple[Group, ...], tuple[Dataset, ...]]:
    wanted = [names for names in found.dataset_names.values() if any(map(selection.selects, names))]
    total = len(found.group_names) + len(wanted)
    groups: list[Group] = []
    datasets: list[Dataset] = []
    for names in found.group_names.values():
        groups.append(_read_group(reader, names))
        if progress is not None:
            progress(len(groups), total)
    for names in wanted:
        dataset = _read_dataset_or_problem(reader, [name for name in names if selection.selects(name)])
        if dataset is not None:
            datasets.append(dataset)
        if progress is not None:
            progress(len(groups) + len(datasets), total)
    return tuple(groups), tuple(datasets)


def _read_group(reader: _Reader, names: list[str]) -> Group:
    attributes: tuple[Attribute, ...] = ()
    try:
        group = h5g.open(reader.file, encode_path(names[0]))
        order = group.get_create_plist().get_attr_creation_order()
        attributes, _ = _read_attributes(reader, group, names[0], order)
    except READ_ERRORS as error:
        reader.problems.append(_unreadable(names[0], "the group's attributes", error))
    return Group(path=names[0], other_names=tuple(names[1:]), attributes=attributes)


def _read_dataset_or_problem(reader: _Reader, names: list[str]) -> Dataset | None:
    try:
        return _read_dataset(reader, names)
    except READ_ERRORS as error:
        reader.problems.append(_unreadable(names[0], "the dataset", error))
        return None


def _read_dataset(reader: _Reader, names: list[str]) -> Dataset:
    dataset = h5d.open(reader.file, encode_path(names[0]))
    creation = dataset.get_create_plist()
    known = reader.types[dataset.get_type()]
    space = dataset.get_space()
    shape = space_shape(space)
    layout = _layout(creation)
    chunk_shape = tuple(creation.get_chunk()) if layout is Layout.CHUNKED else None
    index = _chunk_index(dataset, space, layout, chunk_shape, known)
    attributes, scales = _read_attributes(reader, dataset, names[0], creation.get_attr_creation_order())
    values, problem = _values(reader, dataset, names[0], shape, known)
    filters = _filters(creation)
    partial = bool(filters) and libhdf5.leaves_partial_chunks_unfiltered(creation)
    masks = plan_masks(index, filters, shape or (), chunk_shape or shape or (), partial)
    stored = (
        {} if known.datatype.on_heap else _stored_bytes(reader, dataset, layout, chunk_shape, index, masks.untold)
    )
    return Dataset(
        path=names[0],
        other_names=tuple(names[1:]),
        attributes=attributes,
        datatype=known.datatype,
        shape=shape,
        maximum_shape=_maximum_shape(space) if shape is not None else None,
        layout=layout,
        chunk_shape=chunk_shape,
        filters=filters,
        memory_dtype=known.packed_dtype,
        stored_type=known.stored_type,
        memory_type=known.packed_type.encode() if known.packed_type is not None else None,
        fill_value=_fill_value(creation, known),
        chunk_index=index,
        unfiltered_partial_chunks=partial,
        stored_bytes=stored,
        values=values,
        dimension_scales=scales,
        clean_padding=_has_clean_padding(dataset, shape, known),
        external_files=_external_files(creation) if layout is Layout.EXTERNAL else (),
        problem=problem,
    )


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
    dataset: h5d.DatasetID, space: h5s.SpaceID, layout: Layout, chunk_shape: Shape | None, known: KnownType
) -> ChunkIndex:
    shape = space_shape(space)
    if shape is None:
        return empty_index(())
    if chunk_shape is not None:
        if 0 in shape:
            return empty_index(grid_shape(shape, chunk_shape))
        return read_chunk_index(dataset, shape, _maximum_shape(space), chunk_shape)
    byte_length = math.prod(shape) * known.datatype.byte_length
    if layout is Layout.COMPACT and byte_length:
        return contiguous_index(shape, 0, byte_length)
    byte_offset = dataset.get_offset() if layout is Layout.CONTIGUOUS and byte_length else None
    if byte_offset is None:
        return empty_index(tuple(min(extent, 1) for extent in shape))
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


def _has_clean_padding(dataset: h5d.DatasetID, shape: Shape | None, known: KnownType) -> bool:
    """Look whether stored strings are as h5py reads them, where only the values can tell."""
    if shape is None or known.packed_type is None or not depends_on_padding(known.datatype):
        return False
    byte_length = math.prod(shape) * known.datatype.byte_length
    if not 0 < byte_length <= _LARGEST_PADDING_CHECK_BYTES:
        return byte_length == 0
    values = np.zeros(shape, known.packed_dtype)
    dataset.read(h5s.ALL, h5s.ALL, values, mtype=known.packed_type)
    return values.tobytes() == read_stored_elements(dataset, byte_length)


def _external_files(creation: h5p.PropDCID) -> tuple[ExternalFile, ...]:
    pieces = [creation.get_external(number) for number in range(creation.get_external_count())]
    return tuple(
        ExternalFile(
            name=name.decode("utf-8", "surrogateescape"),
            byte_offset=byte_offset,
            byte_length=None if byte_length == h5s.UNLIMITED else byte_length,
        )
        for name, byte_offset, byte_length in pieces
    )


def _values(
    reader: _Reader, dataset: h5d.DatasetID, path: str, shape: Shape | None, known: KnownType
) -> tuple[Any, Problem | None]:
    """Read the values of a dataset whose stored bytes are addresses in a heap."""
    if shape is None or not known.datatype.on_heap:
        return None, None
    pointer_bytes = math.prod(shape) * known.datatype.byte_length
    if pointer_bytes > reader.inline_budget:
        return None, _over_limit(path)
    values = read_values(dataset, shape, known, reader.name_of)
    reader.inline_budget -= value_byte_length(values)
    return (values, None) if reader.inline_budget >= 0 else (None, _over_limit(path))


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
    reader: _Reader,
    dataset: h5d.DatasetID,
    layout: Layout,
    chunk_shape: Shape | None,
    index: ChunkIndex,
    untold: UInt64Column,
) -> dict[int, bytes]:
    """Read the stored chunks of a dataset that is compact or small, or whose masks nothing tells."""
    total = int(index.byte_length.sum())
    if layout is Layout.COMPACT or 0 < total <= min(reader.inline_threshold, reader.inline_budget):
        reader.inline_budget -= total
        wanted = index.grid_position
    else:
        wanted = untold[: _affordable(reader, index, untold)]
    if chunk_shape is None:
        return {int(position): read_stored_elements(dataset, total) for position in wanted}
    return {
        int(position): _read_chunk(dataset, index.grid_shape, chunk_shape, int(position)) for position in wanted
    }


def _affordable(reader: _Reader, index: ChunkIndex, untold: UInt64Column) -> int:
    """Return the number of chunks to read: all, or none where they are over the limit."""
    total = int(index.byte_length[np.isin(index.grid_position, untold)].sum())
    if total > reader.inline_budget:
        return 0
    reader.inline_budget -= total
    return len(untold)


def _read_chunk(dataset: h5d.DatasetID, grid: Shape, chunk_shape: Shape, position: int) -> bytes:
    cell = np.unravel_index(position, grid)
    chunk_offset = tuple(int(at) * extent for at, extent in zip(cell, chunk_shape, strict=True))
    stored: bytes = dataset.read_direct_chunk(chunk_offset)[1]
    return stored


def _read_attributes(
    reader: _Reader, owner: Any, path: str, creation_order: int
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


def _over_limit(path: str) -> Problem:
    return Problem(
        path=path,
        found="values on a heap (variable-length or references), more of them than may go inline",
        remedy="raise --inline-limit, or leave out other such datasets with --exclude",
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
        attribute=name.decode("utf-8", "surrogateescape"),
        found=f"h5py cannot read the attribute: {' '.join(str(error).split())}",
        remedy="read it from the HDF5 file with h5dump",
    )
