"""The few functions of libhdf5 that h5py does not offer, called through ctypes.

The library is the one that h5py has loaded: it is found among the dependencies of h5py's own
modules, so that there is never a second libhdf5 in the process. Every call holds h5py's lock.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from dataclasses import dataclass
from pathlib import Path

import h5py
from h5py._objects import phil

from h5zarr.compiled import native as _native

Identifier = ctypes.c_int64
"""HDF5's `hid_t`."""

EXTENSIBLE_ARRAY = 4
"""`H5D_CHUNK_IDX_EARRAY`."""
_DONT_FILTER_PARTIAL_CHUNKS = 1 << 1
_BASIC_FIELDS = ctypes.c_uint(1)


@functools.cache
def library() -> ctypes.PyDLL:
    """Return the libhdf5 that h5py uses.

    A `PyDLL` raises what a file object of Python raises while libhdf5 reads from it.
    """
    if sys.platform == "win32":
        return ctypes.PyDLL(str(Path(h5py.__file__).parent / "hdf5.dll"))
    return ctypes.PyDLL(h5py.h5d.__file__)


@functools.cache
def chunk_iter_address() -> int:
    """Return the address of `H5Dchunk_iter` (HDF5 1.14 or newer)."""
    return _address("H5Dchunk_iter")


@functools.cache
def object_reader() -> _native.ObjectReader | None:
    """Return what reads attributes and datasets without h5py; None without the compiled module."""
    return None if _native is None else _native.ObjectReader(_address)


def _address(name: str) -> int:
    return ctypes.cast(library()[name], ctypes.c_void_p).value or 0


class _ObjectInfo(ctypes.Structure):
    """`H5O_info2_t`."""

    _fields_ = (
        ("fileno", ctypes.c_ulong),
        ("token", ctypes.c_uint8 * 16),
        ("type", ctypes.c_int),
        ("reference_count", ctypes.c_uint),
        ("times", ctypes.c_int64 * 4),
        ("attribute_count", ctypes.c_uint64),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectInfo:
    """What an object header says of its object."""

    kind: int
    """Kind of the object (`H5O_type_t`)."""
    address: int
    """Address of the object header in the file (bytes)."""
    file_number: int
    """Number of the open file that holds it."""


def object_info(location: h5py.h5g.ObjectID, name: bytes = b".") -> ObjectInfo:
    """Return the kind and the address of an object, and nothing that takes longer.

    h5py's `h5o.get_info` adds up the size of the metadata, and walks the whole chunk index for it.

    Raises
    ------
    KeyError
        The name leads nowhere, or to something that libhdf5 cannot read.
    """
    info = _ObjectInfo()
    with phil:
        status = library().H5Oget_info_by_name3(
            Identifier(location.id), name, ctypes.byref(info), _BASIC_FIELDS, Identifier(0)
        )
    if status < 0:
        raise KeyError(f"no readable object {name.decode('utf-8', 'backslashreplace')}")
    return ObjectInfo(kind=info.type, address=int.from_bytes(info.token, "little"), file_number=info.fileno)


def chunk_index_type(dataset: h5py.h5d.DatasetID) -> int:
    """Return the kind of a chunked dataset's index (`H5D_chunk_index_t`)."""
    kind = ctypes.c_int(-1)
    with phil:
        status = library().H5Dget_chunk_index_type(Identifier(dataset.id), ctypes.byref(kind))
    if status < 0:
        raise RuntimeError("H5Dget_chunk_index_type failed")
    return kind.value


def leaves_partial_chunks_unfiltered(creation: h5py.h5p.PropDCID) -> bool:
    """Return whether partial edge chunks skip the filter pipeline (`H5Pget_chunk_opts`)."""
    options = ctypes.c_uint(0)
    with phil:
        status = library().H5Pget_chunk_opts(Identifier(creation.id), ctypes.byref(options))
    return status >= 0 and skips_partial_chunks(options.value)


def skips_partial_chunks(chunk_options: int) -> bool:
    """Return whether options of chunks say that partial edge chunks skip the filter pipeline."""
    return bool(chunk_options & _DONT_FILTER_PARTIAL_CHUNKS)


def filter_client_data(creation: h5py.h5p.PropDCID, filter_number: int) -> tuple[int, ...]:
    """Return all parameters of a filter; h5py's `get_filter` stops after sixteen."""
    values = _client_data(creation, filter_number, 256)
    if len(values) > 256:
        return _client_data(creation, filter_number, len(values))
    return values


def _client_data(creation: h5py.h5p.PropDCID, filter_number: int, room: int) -> tuple[int, ...]:
    count = ctypes.c_size_t(room)
    values = (ctypes.c_uint * room)()
    flags = ctypes.c_uint(0)
    with phil:
        status = library().H5Pget_filter2(
            Identifier(creation.id),
            ctypes.c_uint(filter_number),
            ctypes.byref(flags),
            ctypes.byref(count),
            values,
            ctypes.c_size_t(0),
            None,
            None,
        )
    if status < 0:
        raise RuntimeError("H5Pget_filter2 failed")
    return (*values, *([0] * (count.value - room)))[: count.value]


def fill_value(creation: h5py.h5p.PropDCID, datatype: h5py.h5t.TypeID) -> bytes:
    """Return the fill value: one element, converted to ``datatype`` (`H5Pget_fill_value`)."""
    buffer = ctypes.create_string_buffer(datatype.get_size())
    with phil:
        status = library().H5Pget_fill_value(Identifier(creation.id), Identifier(datatype.id), buffer)
    if status < 0:
        raise RuntimeError("H5Pget_fill_value failed")
    return buffer.raw


def precision(datatype: h5py.h5t.TypeID) -> int:
    """Return the significant bits of an atomic datatype (`H5Tget_precision`)."""
    function = library().H5Tget_precision
    function.restype = ctypes.c_size_t
    with phil:
        return int(function(Identifier(datatype.id)))


def bit_offset(datatype: h5py.h5t.TypeID) -> int:
    """Return the lowest significant bit of an atomic datatype (`H5Tget_offset`)."""
    with phil:
        return int(library().H5Tget_offset(Identifier(datatype.id)))


def byte_order(datatype: h5py.h5t.TypeID) -> int:
    """Return the byte order of an atomic datatype (`H5Tget_order`)."""
    with phil:
        return int(library().H5Tget_order(Identifier(datatype.id)))
