"""How one dataset is stored: layout, filters, chunk index, external files, fill value."""

from __future__ import annotations

import math
import posixpath
from dataclasses import dataclass
from itertools import starmap

import h5py
import numpy as np
from h5py import h5d, h5p, h5s
from h5py._objects import phil

from h5zarr import libhdf5
from h5zarr.chunk_index import contiguous_index, empty_index, read_chunk_index
from h5zarr.errors import UntranslatableError
from h5zarr.model import ChunkIndex, ExternalFile, Filter, Layout, Shape, SourceIdentity, grid_shape
from h5zarr.neighbours import Neighbourhood
from h5zarr.read_values import READ_ERRORS, KnownType, TypeCache, space_shape

_LAYOUTS = {
    h5d.COMPACT: Layout.COMPACT,
    h5d.CONTIGUOUS: Layout.CONTIGUOUS,
    h5d.CHUNKED: Layout.CHUNKED,
    h5d.VIRTUAL: Layout.VIRTUAL,
}
_MOST_CLIENT_DATA_OF_H5PY = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenDataset:
    """An open dataset and what HDF5 tells of it at once."""

    identifier: h5d.DatasetID
    """The dataset."""
    known: KnownType
    """Its datatype."""
    shape: Shape | None
    """Its shape in elements; None for a null dataspace."""
    maximum_shape: tuple[int | None, ...] | None
    """Its maximum shape in elements, None along unlimited dimensions; None for a null dataspace."""
    layout: Layout
    """Its storage layout."""
    byte_offset: int | None
    """Where its contiguous storage begins in the file (bytes); None where there is none."""
    chunk_shape: Shape | None
    """Shape of a chunk in elements; None where it is not chunked."""
    filters: tuple[Filter, ...]
    """Its filter pipeline, in the order of writing."""
    unfiltered_partial_chunks: bool
    """Whether partial edge chunks skip the pipeline."""
    attribute_order: int
    """In which orders its attributes can be listed (`H5P_CRT_ORDER_TRACKED`)."""
    fill_value: bytes | None
    """One element of the packed dtype for what was never written; None: undefined."""

    @property
    def creation(self) -> h5p.PropDCID:
        """Its creation properties."""
        return self.identifier.get_create_plist()

    @property
    def byte_length(self) -> int:
        """Bytes that its elements take in the file's datatype."""
        return math.prod(self.shape) * self.known.datatype.byte_length if self.shape is not None else 0


def open_dataset(file: h5py.h5f.FileID, path: bytes, types: TypeCache) -> OpenDataset:
    """Open a dataset; errors are `h5zarr.read_values.READ_ERRORS`."""
    identifier = h5d.open(file, path)
    return _read_natively(identifier, types) or _read(identifier, types)


def _read_natively(identifier: h5d.DatasetID, types: TypeCache) -> OpenDataset | None:
    """Describe a dataset without h5py; None where only h5py can."""
    reader = libhdf5.object_reader()
    if reader is None:
        return None
    try:
        with phil:
            found = reader.storage(identifier.id, types.known)
    except READ_ERRORS:  # h5py fails in the same place, with libhdf5's message
        return None
    if found is None:
        return None
    known, shape, maximum_shape, layout, external_count, byte_offset, chunk_shape, *rest = found
    filters, options, order, fill = rest
    return OpenDataset(
        identifier=identifier,
        known=known,
        shape=shape,
        maximum_shape=maximum_shape,
        layout=Layout.EXTERNAL if external_count else _LAYOUTS[layout],
        byte_offset=byte_offset,
        chunk_shape=chunk_shape,
        filters=tuple(starmap(_filter, filters)),
        unfiltered_partial_chunks=libhdf5.skips_partial_chunks(options),
        attribute_order=order,
        fill_value=fill,
    )


def _read(identifier: h5d.DatasetID, types: TypeCache) -> OpenDataset:
    creation = identifier.get_create_plist()
    known = types[identifier.get_type()]
    space = identifier.get_space()
    shape = space_shape(space)
    layout = _layout(creation)
    filters = _filters(creation)
    return OpenDataset(
        identifier=identifier,
        known=known,
        shape=shape,
        maximum_shape=_maximum_shape(space) if shape is not None else None,
        layout=layout,
        byte_offset=identifier.get_offset() if layout is Layout.CONTIGUOUS else None,
        chunk_shape=tuple(creation.get_chunk()) if layout is Layout.CHUNKED else None,
        filters=filters,
        unfiltered_partial_chunks=bool(filters) and libhdf5.leaves_partial_chunks_unfiltered(creation),
        attribute_order=creation.get_attr_creation_order(),
        fill_value=_fill_value(creation, known),
    )


def _layout(creation: h5p.PropDCID) -> Layout:
    layout = _LAYOUTS[creation.get_layout()]
    if layout is Layout.CONTIGUOUS and creation.get_external_count() > 0:
        return Layout.EXTERNAL
    return layout


def _maximum_shape(space: h5s.SpaceID) -> tuple[int | None, ...]:
    return tuple(None if extent == h5s.UNLIMITED else extent for extent in space.get_simple_extent_dims(True))


def _filters(creation: h5p.PropDCID) -> tuple[Filter, ...]:
    return tuple(_read_filter(creation, number) for number in range(creation.get_nfilters()))


def _read_filter(creation: h5p.PropDCID, number: int) -> Filter:
    identifier, flags, client_data, name = creation.get_filter(number)
    if len(client_data) >= _MOST_CLIENT_DATA_OF_H5PY:
        client_data = libhdf5.filter_client_data(creation, number)
    return _filter(identifier, flags, tuple(client_data), name)


def _filter(identifier: int, flags: int, client_data: tuple[int, ...], name: bytes) -> Filter:
    return Filter(
        identifier=identifier, name=name.decode("utf-8", "replace"), flags=flags, client_data=client_data
    )


def _fill_value(creation: h5p.PropDCID, known: KnownType) -> bytes | None:
    """Return one element of the packed dtype for what was never written; None: undefined."""
    if known.packed_type is None or known.packed_dtype is None:
        return None
    defined = creation.fill_value_defined()
    if defined == h5d.FILL_VALUE_UNDEFINED:
        return None
    # What was never written and is never filled is undefined: h5py leaves its zeros.
    if defined == h5d.FILL_VALUE_DEFAULT or creation.get_fill_time() == h5d.FILL_TIME_NEVER:
        return bytes(known.packed_dtype.itemsize)
    if known.by_h5py:
        assert known.memory_type is not None
        element = np.frombuffer(libhdf5.fill_value(creation, known.memory_type), known.dtype)
        return bytes(element.astype(known.packed_dtype.base).tobytes())
    return libhdf5.fill_value(creation, known.packed_type)


def stored_chunks(dataset: OpenDataset, file_byte_length: int) -> ChunkIndex:
    """Return where the dataset's chunks are; contiguous storage is one chunk.

    Raises
    ------
    RuntimeError, ValueError
        libhdf5 cannot walk the index, or the storage is impossible.
    """
    if dataset.shape is None or dataset.maximum_shape is None:
        return empty_index(())
    if dataset.chunk_shape is None:
        return _unchunked(dataset, dataset.shape, file_byte_length)
    if 0 in dataset.chunk_shape:
        raise ValueError(f"its chunk shape is {dataset.chunk_shape}")
    if 0 in dataset.shape:
        return empty_index(grid_shape(dataset.shape, dataset.chunk_shape))
    return read_chunk_index(dataset.identifier, dataset.shape, dataset.maximum_shape, dataset.chunk_shape)


def _unchunked(dataset: OpenDataset, shape: Shape, file_byte_length: int) -> ChunkIndex:
    length = dataset.byte_length
    if dataset.layout is Layout.COMPACT and length:
        return contiguous_index(shape, 0, length)
    begin = dataset.byte_offset
    # With a user block, libhdf5 adds its length to the address that stands for none.
    if begin is None or not length or not dataset.identifier.get_storage_size():
        return empty_index(tuple(min(extent, 1) for extent in shape))
    if begin + length > file_byte_length:
        raise ValueError(f"{length} contiguous bytes at {begin} reach over the end of the file")
    return contiguous_index(shape, begin, length)


def external_files(dataset: OpenDataset, neighbourhood: Neighbourhood) -> tuple[ExternalFile, ...]:
    """Return the pieces of external storage, as far as the dataset's elements reach.

    Raises
    ------
    UntranslatableError
        A file may not be opened, is missing or too short.
    """
    if dataset.layout is not Layout.EXTERNAL:
        return ()
    creation, remaining = dataset.creation, dataset.byte_length
    pieces: list[ExternalFile] = []
    for number in range(creation.get_external_count()):
        encoded, byte_offset, byte_length = creation.get_external(number)
        name = encoded.decode("utf-8", "surrogateescape")
        length = remaining if byte_length == h5s.UNLIMITED else min(byte_length, remaining)
        remaining -= length
        if length:
            url = neighbourhood.resolve(name)
            _check_external_file(neighbourhood.look(url), byte_offset + length)
            public = neighbourhood.publish(url)
            pieces.append(ExternalFile(name=name, url=public, byte_offset=byte_offset, byte_length=length))
    return tuple(pieces)


def _check_external_file(known: SourceIdentity, end: int) -> None:
    """Check that an external file reaches to ``end`` (bytes); libhdf5 takes the rest for zeros."""
    if known.byte_length is not None and known.byte_length < end:
        name = posixpath.basename(known.url)
        raise UntranslatableError(
            f"external storage in {name}, which is missing or ends before byte {end}",
            "put the file beside the HDF5 file",
        )
