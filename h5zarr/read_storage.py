"""How one dataset is stored: layout, filters, chunk index, external files, fill value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import h5py
from h5py import h5d, h5p, h5s

from h5zarr import libhdf5
from h5zarr.chunk_index import contiguous_index, empty_index, read_chunk_index
from h5zarr.errors import UntranslatableError
from h5zarr.model import ChunkIndex, ExternalFile, Filter, Layout, Shape, grid_shape
from h5zarr.neighbours import Neighbourhood
from h5zarr.read_values import KnownType, TypeCache, space_shape

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
    creation: h5p.PropDCID
    """Its creation properties."""
    known: KnownType
    """Its datatype."""
    shape: Shape | None
    """Its shape in elements; None for a null dataspace."""
    maximum_shape: tuple[int | None, ...] | None
    """Its maximum shape in elements, None along unlimited dimensions; None for a null dataspace."""
    layout: Layout
    """Its storage layout."""
    chunk_shape: Shape | None
    """Shape of a chunk in elements; None where it is not chunked."""
    filters: tuple[Filter, ...]
    """Its filter pipeline, in the order of writing."""
    unfiltered_partial_chunks: bool
    """Whether partial edge chunks skip the pipeline."""

    @property
    def byte_length(self) -> int:
        """Bytes that its elements take in the file's datatype."""
        return math.prod(self.shape) * self.known.datatype.byte_length if self.shape is not None else 0


def open_dataset(file: h5py.h5f.FileID, path: bytes, types: TypeCache) -> OpenDataset:
    """Open a dataset; errors are `h5zarr.read_values.READ_ERRORS`."""
    identifier = h5d.open(file, path)
    creation = identifier.get_create_plist()
    space = identifier.get_space()
    shape = space_shape(space)
    layout = _layout(creation)
    filters = _filters(creation)
    return OpenDataset(
        identifier=identifier,
        creation=creation,
        known=types[identifier.get_type()],
        shape=shape,
        maximum_shape=_maximum_shape(space) if shape is not None else None,
        layout=layout,
        chunk_shape=tuple(creation.get_chunk()) if layout is Layout.CHUNKED else None,
        filters=filters,
        unfiltered_partial_chunks=bool(filters) and libhdf5.leaves_partial_chunks_unfiltered(creation),
    )


def _layout(creation: h5p.PropDCID) -> Layout:
    layout = _LAYOUTS[creation.get_layout()]
    if layout is Layout.CONTIGUOUS and creation.get_external_count() > 0:
        return Layout.EXTERNAL
    return layout


def _maximum_shape(space: h5s.SpaceID) -> tuple[int | None, ...]:
    return tuple(None if extent == h5s.UNLIMITED else extent for extent in space.get_simple_extent_dims(True))


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


def fill_value(dataset: OpenDataset) -> bytes | None:
    """Return one element of the packed dtype for what was never written; None: undefined."""
    known = dataset.known
    if known.packed_type is None or known.packed_dtype is None:
        return None
    defined = dataset.creation.fill_value_defined()
    if defined == h5d.FILL_VALUE_UNDEFINED:
        return None
    # What was never written and is never filled is undefined: h5py leaves its zeros.
    if defined == h5d.FILL_VALUE_DEFAULT or dataset.creation.get_fill_time() == h5d.FILL_TIME_NEVER:
        return bytes(known.packed_dtype.itemsize)
    return libhdf5.fill_value(dataset.creation, known.packed_type)


def stored_chunks(dataset: OpenDataset, file: h5py.h5f.FileID) -> ChunkIndex:
    """Return where the dataset's chunks are; contiguous storage is one chunk.

    Raises
    ------
    RuntimeError, ValueError
        libhdf5 cannot walk the index, or the storage is impossible.
    """
    if dataset.shape is None or dataset.maximum_shape is None:
        return empty_index(())
    if dataset.chunk_shape is None:
        return _unchunked(dataset, dataset.shape, file)
    if 0 in dataset.chunk_shape:
        raise ValueError(f"its chunk shape is {dataset.chunk_shape}")
    if 0 in dataset.shape:
        return empty_index(grid_shape(dataset.shape, dataset.chunk_shape))
    return read_chunk_index(dataset.identifier, dataset.shape, dataset.maximum_shape, dataset.chunk_shape)


def _unchunked(dataset: OpenDataset, shape: Shape, file: h5py.h5f.FileID) -> ChunkIndex:
    length = dataset.byte_length
    if dataset.layout is Layout.COMPACT and length:
        return contiguous_index(shape, 0, length)
    begin = dataset.identifier.get_offset() if dataset.layout is Layout.CONTIGUOUS and length else None
    if begin is None:
        return empty_index(tuple(min(extent, 1) for extent in shape))
    if begin + length > file.get_filesize():
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
            _check_external_file(neighbourhood, url, byte_offset + length)
            public = neighbourhood.publish(url)
            pieces.append(ExternalFile(name=name, url=public, byte_offset=byte_offset, byte_length=length))
    return tuple(pieces)


def _check_external_file(neighbourhood: Neighbourhood, url: str, end: int) -> None:
    """Look whether an external file reaches to ``end`` (bytes); libhdf5 takes the rest for zeros."""
    if not neighbourhood.is_local:
        return
    path = Path(url.removeprefix("file://"))
    if not path.is_file() or path.stat().st_size < end:
        raise UntranslatableError(
            f"external storage in {path.name}, which is missing or ends before byte {end}",
            "put the file beside the HDF5 file",
        )
