"""Decode stored chunks with libhdf5 itself, from an HDF5 file that exists in memory only.

The file holds one dataset ``chunk`` of unsigned bytes, whose only chunk is as long as the chunk to
decode and whose filter pipeline is the one to undo, byte for byte: no filter's set-local callback
runs, so that parameters which depend on the original datatype and chunk shape stay what they were.
The file is built once for a pipeline and stays open; stored bytes are put in with
`H5Dwrite_chunk` and come out of `H5Dread`.

Filters that a chunk's filter mask skips are left out of the pipeline, which is what the mask means:
libhdf5 2.0.0 forgets the mask of a chunk that was written through the same handle.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from h5py import h5d, h5f, h5p, h5s, h5t, h5z
from h5py._objects import phil

from h5zarr.chunk_form import ChunkForm
from h5zarr.errors import DamagedFileError, ReferencesError
from h5zarr.filter_registry import filter_name, missing_plugin
from h5zarr.fragile_filters import (
    BZIP2,
    FLETCHER32,
    FLETCHER32_BYTE_LENGTH,
    check_stored_bytes,
    undo_bzip2,
)
from h5zarr.model import Filter

ByteArray = npt.NDArray[np.uint8]

_LARGEST_CHUNK = 0xFFFFFFFF
_LARGEST_KEPT_OPEN = 1 << 20
_FILES_KEPT_OPEN = 16
_MOST_FILTERS = 32
_UNDEFINED_ADDRESS = 0xFFFFFFFFFFFFFFFF
_FIRST_PRIVATE_FILTER = 65535
_HDF5_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError)


def decode_chunk(
    form: ChunkForm, stored_bytes: bytes | ByteArray, filter_mask: int | None = None
) -> ByteArray:
    """Return the values of one stored chunk, as h5py would read them.

    Parameters
    ----------
    form
        How the chunks of the dataset are stored.
    stored_bytes
        The chunk as it stands in the file.
    filter_mask
        Its filter mask; None: the one that the form tells for chunks of this length.

    Returns
    -------
    array
        (bytes,) ``form.chunk_byte_length`` bytes, or as many as its elements take in
        ``form.memory_type``. May share memory with ``stored_bytes`` where nothing is to be done.

    Raises
    ------
    DamagedFileError
        libhdf5 cannot undo the filters on these bytes, or they give less than a chunk.
    ReferencesError
        The form itself cannot be used: a filter or a conversion that libhdf5 does not have.
    """
    if form.stored_type is None or form.memory_type is None:
        return unfilter_chunk(form, stored_bytes, filter_mask)
    conversion = _conversion(form.stored_type, form.memory_type)
    count = conversion.element_count(form.chunk_byte_length)
    values = np.empty(count * max(conversion.byte_lengths), np.uint8)
    values[: form.chunk_byte_length] = unfilter_chunk(form, stored_bytes, filter_mask)
    conversion.convert(values, count)
    return values[: count * conversion.byte_lengths[-1]]


def check_conversion(form: ChunkForm) -> None:
    """Check that elements of a form can be converted.

    Raises
    ------
    ReferencesError
        libhdf5 cannot convert them.
    """
    if form.stored_type is not None and form.memory_type is not None:
        _conversion(form.stored_type, form.memory_type)


def unfilter_chunk(
    form: ChunkForm, stored_bytes: bytes | ByteArray, filter_mask: int | None = None
) -> ByteArray:
    """Return one stored chunk with its filters undone, in the file's datatype.

    What a pipeline gives beyond the chunk is left out, as libhdf5 does. So a chunk that went
    through no filter may be padded to a length that ``form.mask_by_byte_length`` names.

    Parameters
    ----------
    form, stored_bytes, filter_mask
        As of `decode_chunk`.

    Returns
    -------
    array
        (``form.chunk_byte_length``,) bytes; shares memory with ``stored_bytes`` where no filter
        was applied.

    Raises
    ------
    DamagedFileError
        libhdf5 cannot undo the filters on these bytes, or they give less than a chunk.
    ReferencesError
        libhdf5 does not have a filter, or the chunk or pipeline is larger than it allows.
    """
    data = np.frombuffer(stored_bytes, np.uint8)
    byte_length = data.nbytes
    filters = form.applied_filters(form.mask_of(byte_length) if filter_mask is None else filter_mask)
    while filters and filters[-1].identifier == BZIP2:
        data, filters = undo_bzip2(data), filters[:-1]
    if filters:
        check_stored_bytes(filters[-1], data)
        return _decoder(filters, form.chunk_byte_length).decode(data)
    if data.nbytes < form.chunk_byte_length:
        raise DamagedFileError(
            f"chunk of {byte_length} stored bytes holds {data.nbytes} of {form.chunk_byte_length} bytes"
        )
    return data[: form.chunk_byte_length]


# The file --------------------------------------------------------------------------------


def build_file_image(filters: tuple[Filter, ...], chunk_byte_length: int) -> bytes:
    """Return an HDF5 file with one dataset ``chunk`` of one chunk, which is not stored yet.

    Superblock and object headers are of the first versions, which carry no checksum.

    Parameters
    ----------
    filters
        The dataset's filter pipeline, in the order of writing.
    chunk_byte_length
        Elements of the dataset and of its chunk, one byte each.

    Notes
    -----
    HDF5 File Format Specification, "Disk Format: Level 0A - Format Signature and Superblock" and
    "Disk Format: Level 2A1 - Data Object Header Prefix", version 1.
    """
    root_header = _root_group(dataset_address=0)
    root_address = _SUPERBLOCK.size
    dataset_address = root_address + len(root_header)
    dataset_header = _dataset(filters, chunk_byte_length)
    file_length = dataset_address + len(dataset_header)
    return b"".join((_superblock(root_address, file_length), _root_group(dataset_address), dataset_header))


_SUPERBLOCK = struct.Struct("<8s 4x B B B x H H I Q Q Q Q Q Q I 4x 16x")


def _superblock(root_address: int, file_length: int) -> bytes:
    """Return a superblock of version 0; addresses and lengths take 8 bytes."""
    return _SUPERBLOCK.pack(
        *(b"\x89HDF\r\n\x1a\n", 0, 8, 8),
        *(4, 16, 0),
        *(0, _UNDEFINED_ADDRESS, file_length, _UNDEFINED_ADDRESS),
        *(0, root_address, 0),
    )


def _root_group(dataset_address: int) -> bytes:
    """Return the object header of a group with one link: messages link info, group info, link."""
    link_info = struct.pack("<BBQQ", 0, 0, _UNDEFINED_ADDRESS, _UNDEFINED_ADDRESS)
    link = struct.pack("<BBB5sQ", 1, 0, 5, b"chunk", dataset_address)
    return _object_header((0x02, link_info), (0x0A, bytes(2)), (0x06, link))


def _dataset(filters: tuple[Filter, ...], chunk_byte_length: int) -> bytes:
    """Return the object header of the dataset, with the five messages that one needs."""
    dataspace = struct.pack("<BBB5xQ", 1, 1, 0, chunk_byte_length)
    unsigned_byte = struct.pack("<B3xIHH", 0x10, 1, 0, 8)
    fill_value = struct.pack("<BBBB", 2, 3, 2, 0)
    return _object_header(
        (0x01, dataspace),
        (0x03, unsigned_byte),
        (0x05, fill_value),
        (0x08, _single_chunk_layout(chunk_byte_length)),
        (0x0B, _filter_pipeline(filters)),
    )


def _single_chunk_layout(chunk_byte_length: int) -> bytes:
    """Return a data layout message, version 4, with a filtered single chunk that is not stored."""
    width = (chunk_byte_length.bit_length() + 7) // 8
    dimensions = chunk_byte_length.to_bytes(width, "little") + (1).to_bytes(width, "little")
    index = struct.pack("<BQIQ", 1, 0, 0, _UNDEFINED_ADDRESS)
    return struct.pack("<BBBBB", 4, 2, 2, 2, width) + dimensions + index


def _filter_pipeline(filters: tuple[Filter, ...]) -> bytes:
    """Return a data storage filter pipeline message, version 2, which pads nothing."""
    return struct.pack("<BB", 2, len(filters)) + b"".join(map(_filter_description, filters))


def _filter_description(stage: Filter) -> bytes:
    """Return one filter of the message; only filters from 256 on have a name there."""
    name, name_length = b"", b""
    if stage.identifier >= h5z.FILTER_RESERVED:
        name = stage.name.encode(errors="replace") + b"\0"
        name_length = struct.pack("<H", len(name))
    count = len(stage.client_data)
    return b"".join(
        (
            struct.pack("<H", stage.identifier),
            name_length,
            struct.pack("<HH", stage.flags, count),
            name,
            struct.pack(f"<{count}I", *stage.client_data),
        )
    )


def _object_header(*messages: tuple[int, bytes]) -> bytes:
    """Return an object header, version 1, of messages given by number and body."""
    body = b"".join(_message(number, content) for number, content in messages)
    return struct.pack("<BxHII4x", 1, len(messages), 1, len(body)) + body


def _message(number: int, content: bytes) -> bytes:
    """Return a header message, padded to a multiple of 8 bytes."""
    padded = content + bytes(-len(content) % 8)
    return struct.pack("<HHB3x", number, len(padded), 0) + padded


# Filters ---------------------------------------------------------------------------------


class _ChunkDecoder:
    """One pipeline's file, and the way through it; calls are serialised by h5py's lock."""

    def __init__(self, filters: tuple[Filter, ...], chunk_byte_length: int) -> None:
        self._chunk_byte_length = chunk_byte_length
        self._words = ", ".join(f"{stage.identifier} ({filter_name(stage.identifier)})" for stage in filters)
        self._image = build_file_image(_with_length_checks(filters, chunk_byte_length), chunk_byte_length)
        self._dataset: h5d.DatasetID | None = None

    def decode(self, stored: ByteArray) -> ByteArray:
        """Return the (chunk_byte_length,) bytes that were filtered into ``stored``."""
        unfiltered = np.empty(self._chunk_byte_length, np.uint8)
        with phil:
            try:
                self._pass_through(stored, unfiltered)
            except _HDF5_ERRORS as error:
                # What a failing filter leaves behind in an open file is not to be relied on.
                self._dataset = None
                raise DamagedFileError(self._complaint(stored, error)) from error
        return unfiltered

    def _pass_through(self, stored: ByteArray, unfiltered: ByteArray) -> None:
        """Put the stored bytes into the file and read the unfiltered ones."""
        # Falsy too where somebody closed every open HDF5 object of the process.
        dataset = self._dataset or self._open()
        dataset.write_direct_chunk((0,), stored)
        dataset.read(h5s.ALL, h5s.ALL, unfiltered, h5t.NATIVE_UINT8)
        # An open file holds on to the last stored bytes.
        self._dataset = dataset if self._chunk_byte_length <= _LARGEST_KEPT_OPEN else None

    def _open(self) -> h5d.DatasetID:
        """Return the dataset of a newly opened file, which stays open as long as the dataset."""
        file = h5f.open_file_image(self._image, h5f.FILE_IMAGE_OPEN_RW)
        access = h5p.create(h5p.DATASET_ACCESS)
        access.set_chunk_cache(0, 0, 0.0)
        return h5d.open(file, b"chunk", access)

    def _complaint(self, stored: ByteArray, error: Exception) -> str:
        """Return what an error means to the user."""
        return (
            f"chunk of {stored.nbytes} stored bytes does not decode to {self._chunk_byte_length} bytes"
            f" through HDF5 filters {self._words}: {error}"
        )


@functools.lru_cache(maxsize=_FILES_KEPT_OPEN)
def _decoder(filters: tuple[Filter, ...], chunk_byte_length: int) -> _ChunkDecoder:
    """Return the decoder of a pipeline, one for all arrays and threads that use it."""
    _check_filters(filters)
    if chunk_byte_length > _LARGEST_CHUNK:
        raise ReferencesError(f"filtered chunk of {chunk_byte_length} bytes; libhdf5 allows {_LARGEST_CHUNK}")
    if len(_with_length_checks(filters, chunk_byte_length)) > _MOST_FILTERS:
        raise ReferencesError(f"pipeline of {len(filters)} filters, too long to be checked")
    try:
        return _ChunkDecoder(filters, chunk_byte_length)
    except struct.error as error:
        raise ReferencesError(f"filter pipeline longer than a header message allows: {error}") from error


def _check_filters(filters: tuple[Filter, ...]) -> None:
    """Raise where libhdf5 does not have a filter."""
    missing = missing_plugin(filters)
    if missing is not None:
        raise ReferencesError(f"chunks need {missing.found}; {missing.remedy}")


# libhdf5 2.0.0 takes a pipeline's output for a whole chunk whatever its length, and reads on into
# memory that is not its own where it is shorter; its fletcher32 does so with less than a checksum. A filter
# that is registered here sees the length: before all others, and after each fletcher32.

_FilterFunction = ctypes.CFUNCTYPE(
    ctypes.c_size_t,
    ctypes.c_uint,
    ctypes.c_size_t,
    ctypes.POINTER(ctypes.c_uint),
    ctypes.c_size_t,
    ctypes.c_void_p,
    ctypes.c_void_p,
)


class _FilterClass(ctypes.Structure):
    """`H5Z_class2_t`."""

    _fields_ = (
        ("version", ctypes.c_int),
        ("identifier", ctypes.c_int),
        ("encoder_present", ctypes.c_uint),
        ("decoder_present", ctypes.c_uint),
        ("name", ctypes.c_char_p),
        ("can_apply", ctypes.c_void_p),
        ("set_local", ctypes.c_void_p),
        ("function", _FilterFunction),
    )


def _check_length(
    _flags: int, _count: int, client_data: Any, byte_length: int, _allocated: int, _buffer: int
) -> int:
    """Return the length of the data, or 0, which means failure, where they are too short."""
    return byte_length if byte_length >= client_data[0] else 0


def _with_length_checks(filters: tuple[Filter, ...], chunk_byte_length: int) -> tuple[Filter, ...]:
    """Return a pipeline that fails where libhdf5 would read beyond its buffers."""
    stages = [_length_check(chunk_byte_length)]
    for stage in filters:
        stages.append(stage)
        if stage.identifier == FLETCHER32:
            stages.append(_length_check(FLETCHER32_BYTE_LENGTH))
    return tuple(stages)


def _length_check(byte_length: int) -> Filter:
    """Return a filter that fails where so many bytes do not come out of the filters after it."""
    with phil:
        identifier = _register_length_check().identifier
    return Filter(
        identifier=identifier,
        name="h5zarr length check",
        flags=h5z.FLAG_MANDATORY,
        client_data=(byte_length,),
    )


@functools.cache
def _register_length_check() -> _FilterClass:
    """Register the filter under the highest private number that is free; libhdf5 keeps its pointers."""
    identifier = _FIRST_PRIVATE_FILTER
    while h5z.filter_avail(identifier):
        identifier -= 1
    function = _FilterFunction(_check_length)
    name = b"h5zarr length check"
    filter_class = _FilterClass(h5z.CLASS_T_VERS, identifier, 0, 1, name, None, None, function)
    h5z.register_filter(ctypes.addressof(filter_class))
    return filter_class


# Datatypes -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Conversion:
    """A way from a stored datatype to one in memory."""

    datatypes: tuple[h5t.TypeID, ...]
    """The file's datatype, the one in memory last, between them what the way leads over."""
    byte_lengths: tuple[int, ...]
    """Bytes of one element of each of them."""

    def element_count(self, byte_length: int) -> int:
        """Return the elements in so many stored bytes."""
        count, rest = divmod(byte_length, self.byte_lengths[0])
        if rest:
            raise ReferencesError(f"chunk of {byte_length} bytes, elements of {self.byte_lengths[0]} bytes")
        return count

    def convert(self, values: ByteArray, count: int) -> None:
        """Convert so many elements in place; padding between members becomes 0."""
        for source, target in itertools.pairwise(self.datatypes):
            # h5py's own background for compounds would be a copy of ``values``.
            h5t.convert(source, target, count, values, np.zeros_like(values))


@functools.lru_cache(maxsize=256)
def _conversion(stored_type: bytes, memory_type: bytes) -> _Conversion:
    """Return the conversion between two encoded datatypes, tried on one element."""
    stored, memory = _decode_type(stored_type), _decode_type(memory_type)
    if needs_h5py(stored):
        return _conversion_by_h5py(stored, memory)
    try:
        return _tried_conversion(stored, memory)
    except _HDF5_ERRORS:
        # From a big-endian bitfield to a little-endian integer, say, libhdf5 has a way only over h5py's own.
        return _conversion_by_h5py(stored, memory)


def needs_h5py(datatype: h5t.TypeID) -> bool:
    """Return whether libhdf5 converts elements rightly only to the datatype that h5py reads into.

    From big-endian integers of less than full precision to little-endian ones of the same length,
    libhdf5 2.0 swaps the bytes, and neither masks the other bits nor extends the sign.
    """
    if isinstance(datatype, h5t.TypeCompoundID):
        return any(needs_h5py(datatype.get_member_type(member)) for member in range(datatype.get_nmembers()))
    if isinstance(datatype, h5t.TypeArrayID | h5t.TypeEnumID):
        return needs_h5py(datatype.get_super())
    return (
        isinstance(datatype, h5t.TypeIntegerID)
        and datatype.get_order() == h5t.ORDER_BE
        and datatype.get_precision() < 8 * datatype.get_size()
    )


def _conversion_by_h5py(stored: h5t.TypeID, memory: h5t.TypeID) -> _Conversion:
    """Return the conversion that leads over the datatype that h5py reads into."""
    try:
        return _tried_conversion(stored, h5t.py_create(stored.dtype), memory)
    except _HDF5_ERRORS as error:
        raise ReferencesError(f"libhdf5 cannot convert stored_type to memory_type: {error}") from error


def _tried_conversion(*datatypes: h5t.TypeID) -> _Conversion:
    """Return the conversion over these datatypes; raises what h5py raises where there is none."""
    byte_lengths = tuple(datatype.get_size() for datatype in datatypes)
    conversion = _Conversion(datatypes=datatypes, byte_lengths=byte_lengths)
    conversion.convert(np.zeros(max(byte_lengths), np.uint8), 1)
    return conversion


def _decode_type(encoded: bytes) -> h5t.TypeID:
    """Return the datatype that `H5Tencode` wrote; elements must hold values, not addresses."""
    try:
        datatype = h5t.decode(encoded)
        consistent, holds_addresses = _is_consistent(datatype), _holds_addresses(datatype)
    except _HDF5_ERRORS as error:
        raise ReferencesError(f"not an encoded HDF5 datatype: {error}") from error
    if not consistent:
        raise ReferencesError("encoded HDF5 datatype whose parts are larger than the whole")
    if holds_addresses:
        raise ReferencesError("elements are addresses into the file; h5zarr.hdf5 converts values only")
    return datatype


def _is_consistent(datatype: h5t.TypeID) -> bool:
    """Return whether members and elements lie within their datatype, which libhdf5 takes for granted."""
    byte_length = datatype.get_size()
    if isinstance(datatype, h5t.TypeArrayID):
        element = datatype.get_super()
        whole = math.prod(datatype.get_array_dims()) * element.get_size()
        return bool(whole == byte_length) and _is_consistent(element)
    if not isinstance(datatype, h5t.TypeCompoundID):
        return True
    return all(_is_within(datatype, position) for position in range(datatype.get_nmembers()))


def _is_within(datatype: h5t.TypeCompoundID, position: int) -> bool:
    """Return whether one member lies within a compound."""
    member = datatype.get_member_type(position)
    end = datatype.get_member_offset(position) + member.get_size()
    return bool(end <= datatype.get_size()) and _is_consistent(member)


def _holds_addresses(datatype: h5t.TypeID) -> bool:
    """Return whether elements hold addresses of what is elsewhere in the file."""
    if isinstance(datatype, h5t.TypeStringID):
        return bool(datatype.is_variable_str())
    if isinstance(datatype, h5t.TypeCompoundID):
        members = range(datatype.get_nmembers())
        return any(_holds_addresses(datatype.get_member_type(member)) for member in members)
    if isinstance(datatype, h5t.TypeArrayID):
        return _holds_addresses(datatype.get_super())
    return isinstance(datatype, h5t.TypeVlenID | h5t.TypeReferenceID)
