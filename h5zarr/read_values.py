"""Values of datasets and attributes, read through h5py's low-level API.

Finding the NumPy dtype of an HDF5 datatype is most of what reading a small attribute costs, so
it is done once per distinct datatype of a file (`TypeCache`). References become absolute paths.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5r, h5s, h5t
from h5py._objects import phil

from h5zarr import libhdf5
from h5zarr.datatypes import is_exact
from h5zarr.file_image import needs_h5py
from h5zarr.libhdf5 import object_info
from h5zarr.model import Attribute, Datatype, DatatypeClass, Shape
from h5zarr.read_datatype import read_datatype

NameOf = Callable[[Any], str]
"""Returns the absolute path of the object that a reference points to."""

READ_ERRORS = (OSError, RuntimeError, ValueError, TypeError, KeyError, OverflowError)
"""What h5py raises where libhdf5 or h5py itself cannot read or describe something."""

# libhdf5 converts opaque types only where the tags are equal, and bitfields only to bitfields.
_UNCONVERTED = (DatatypeClass.OPAQUE, DatatypeClass.BITFIELD)
_KINDS_WITH_METADATA = "SmM"
"""Kinds of which h5py's metadata tells the HDF5 datatype: character set, opaque times."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownType:
    """What is known of one datatype of the file."""

    datatype: Datatype
    """The datatype in the file."""
    dtype: np.dtype[Any] | None
    """h5py's dtype for it; None where h5py has none."""
    memory_type: h5t.TypeID | None
    """HDF5's memory type for that dtype."""
    refers: bool
    """Whether values hold references."""
    stored_type: bytes
    """Encoded datatype of the file (`H5Tencode`)."""
    file_type: h5t.TypeID
    """HDF5's datatype of the file."""
    packed_dtype: np.dtype[Any] | None
    """``dtype`` without padding, little-endian; None where h5py has none."""
    packed_type: h5t.TypeID | None
    """HDF5's datatype for ``packed_dtype``; None where elements are on a heap."""
    encoded_packed_type: bytes | None
    """The same encoded (`H5Tencode`)."""
    on_heap: bool
    """Whether stored elements hold addresses instead of values."""
    by_h5py: bool
    """Whether libhdf5 converts elements rightly only to ``memory_type``, as of `needs_h5py`."""
    plain_byte_length: int | None
    """Bytes of one element of an attribute in memory: a number or struct of ``dtype``, or the address of
    text; None where h5py has to convert elements itself."""


class TypeCache:
    """The datatypes of one file.

    Attributes
    ----------
    known
        Each by its encoded form without the zeros at its end, which tell nothing: no encoded datatype is
        the beginning of another.
    """

    def __init__(self) -> None:
        self.known: dict[bytes, KnownType] = {}

    def __getitem__(self, datatype: h5t.TypeID) -> KnownType:
        encoded = datatype.encode()
        key = encoded.rstrip(b"\0")
        known = self.known.get(key)
        if known is None:
            known = self.known[key] = _learn(datatype, encoded)
        return known


def _learn(datatype: h5t.TypeID, encoded: bytes) -> KnownType:
    described = read_datatype(datatype)
    try:
        dtype = datatype.dtype
        memory_type = h5t.py_create(dtype)
    except (TypeError, ValueError, NotImplementedError):  # h5py has no dtype for it
        dtype = memory_type = None
    if dtype is not None and described.datatype_class in _UNCONVERTED and is_exact(described):
        memory_type = datatype.copy()
    packed = None if dtype is None else packed_dtype(dtype)
    packed_type = None if packed is None or described.on_heap else h5t.py_create(packed)
    return KnownType(
        datatype=described,
        dtype=dtype,
        memory_type=memory_type,
        refers=_holds_references(described),
        stored_type=encoded,
        file_type=datatype.copy(),
        packed_dtype=packed,
        packed_type=packed_type,
        encoded_packed_type=None if packed_type is None else packed_type.encode(),
        on_heap=described.on_heap,
        by_h5py=memory_type is not None and needs_h5py(datatype),
        plain_byte_length=_plain_byte_length(described, dtype, memory_type),
    )


def _plain_byte_length(
    datatype: Datatype, dtype: np.dtype[Any] | None, memory_type: h5t.TypeID | None
) -> int | None:
    if dtype is None or memory_type is None:
        return None
    if datatype.variable_length:
        return ctypes.sizeof(ctypes.c_void_p)
    if datatype.on_heap or memory_type.get_size() != dtype.itemsize:
        return None
    return dtype.itemsize


def packed_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype without padding between members, little-endian."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        element = packed_dtype(base)  # of an array of arrays, an array
        return np.dtype((element.base, shape + element.shape))
    if dtype.names is not None:
        return np.dtype([(name, packed_dtype(dtype[name])) for name in dtype.names])
    little = dtype.str.replace(">", "<")
    if dtype.kind in _KINDS_WITH_METADATA and dtype.metadata is not None:
        return np.dtype(little, metadata=dict(dtype.metadata))
    return np.dtype(little)


def _holds_references(datatype: Datatype) -> bool:
    if datatype.datatype_class is DatatypeClass.REFERENCE:
        return True
    if datatype.base is not None and _holds_references(datatype.base):
        return True
    return any(_holds_references(member.datatype) for member in datatype.members)


def space_shape(space: h5s.SpaceID) -> Shape | None:
    """Return the extent of a dataspace in elements; None for a null dataspace."""
    if space.get_simple_extent_type() == h5s.NULL:
        return None
    return tuple(space.get_simple_extent_dims())


def _buffer(known: KnownType, shape: Shape) -> np.ndarray[Any, Any]:
    if known.dtype is None:
        raise TypeError(f"h5py has no NumPy type for HDF5's {known.datatype.datatype_class}")
    return np.zeros(shape, known.dtype)


def list_attributes(
    owner: h5py.h5g.ObjectID, index_type: int, skipped: frozenset[bytes], types: TypeCache
) -> list[tuple[bytes, Attribute | None]]:
    """Return the name of each attribute of an open object, and with it those that are read at once.

    Parameters
    ----------
    owner
        The open object.
    index_type
        By name or by order of creation (`H5_index_t`).
    skipped
        Names of attributes to leave out.
    types
        The datatypes of the file.

    Returns
    -------
    list
        Names and attributes; None where `read_attribute` has to read it.

    Raises
    ------
    OSError, RuntimeError, ValueError, TypeError, KeyError, OverflowError
        The attributes cannot be listed (`READ_ERRORS`).
    """
    reader = libhdf5.object_reader()
    if reader is None:
        return _list_names(owner, index_type, skipped)
    try:
        with phil:
            found = reader.attributes(owner.id, index_type, skipped, types.known)
    except READ_ERRORS:  # h5py fails in the same place, with libhdf5's message
        return _list_names(owner, index_type, skipped)
    return [(name, None if plain is None else _plain_attribute(name, *plain)) for name, plain in found]


def _list_names(
    owner: h5py.h5g.ObjectID, index_type: int, skipped: frozenset[bytes]
) -> list[tuple[bytes, Attribute | None]]:
    names: list[bytes] = []
    h5a.iterate(owner, names.append, index_type=index_type)
    return [(name, None) for name in names if name not in skipped]


def _plain_attribute(name: bytes, known: KnownType, shape: Shape | None, stored: Any) -> Attribute:
    if shape is None:
        return _attribute(name, known, None, None)
    if known.datatype.variable_length:
        return _attribute(name, known, shape, np.array(stored, known.dtype).reshape(shape))
    return _attribute(name, known, shape, np.ndarray(shape, known.dtype, stored))


def _attribute(name: bytes, known: KnownType, shape: Shape | None, value: Any) -> Attribute:
    text = name.decode("utf-8", "surrogateescape")
    return Attribute(name=text, datatype=known.datatype, shape=shape, value=value)


def read_attribute(owner: h5py.h5g.ObjectID, name: bytes, types: TypeCache, name_of: NameOf) -> Attribute:
    """Return one attribute of an open object.

    Raises
    ------
    OSError, RuntimeError, ValueError, TypeError, KeyError, OverflowError
        It cannot be read (`READ_ERRORS`).
    """
    opened = h5a.open(owner, name)
    known = types[opened.get_type()]
    shape = space_shape(opened.get_space())
    value = None
    if shape is not None:
        value = _buffer(known, shape)
        opened.read(value, mtype=known.memory_type)
        if known.refers:
            value = _name_references(value, _element_dtype(known), name_of)
    return _attribute(name, known, shape, value)


def read_values(
    dataset: h5d.DatasetID, shape: Shape, known: KnownType, name_of: NameOf
) -> np.ndarray[Any, Any]:
    """Return all values of a dataset as h5py reads them, references as paths.

    Raises
    ------
    OSError, RuntimeError, ValueError, TypeError, KeyError, OverflowError
        They cannot be read (`READ_ERRORS`).
    """
    values = _buffer(known, shape)
    if values.size:
        dataset.read(h5s.ALL, h5s.ALL, values, mtype=known.memory_type)
    return _name_references(values, _element_dtype(known), name_of) if known.refers else values


def read_stored_elements(dataset: h5d.DatasetID, known: KnownType, byte_length: int) -> bytes:
    """Return the elements of a dataset as the file has them, without conversion."""
    elements = np.empty(byte_length, np.uint8)
    dataset.read(h5s.ALL, h5s.ALL, elements, mtype=known.file_type)
    return elements.tobytes()


def _element_dtype(known: KnownType) -> np.dtype[Any]:
    assert known.dtype is not None
    return known.dtype.base


def _name_references(
    values: np.ndarray[Any, Any], dtype: np.dtype[Any], name_of: NameOf
) -> np.ndarray[Any, Any]:
    """Replace references by paths, at any depth of compounds and variable-length sequences."""
    if h5py.check_ref_dtype(dtype) is not None:
        return _object_array(values, name_of)
    element = h5py.check_vlen_dtype(dtype)
    if element is not None and _dtype_refers(np.dtype(element)):
        base = np.dtype(element)
        return _object_array(values, lambda sequence: _name_references(np.asarray(sequence), base, name_of))
    if dtype.names is not None:
        return _name_members(values, dtype, name_of)
    return values


def _dtype_refers(dtype: np.dtype[Any]) -> bool:
    if h5py.check_ref_dtype(dtype) is not None:
        return True
    if dtype.names is not None:
        return any(_dtype_refers(dtype[name].base) for name in dtype.names)
    element = h5py.check_vlen_dtype(dtype)
    return element not in (None, str, bytes) and _dtype_refers(np.dtype(element))


def _object_array(values: np.ndarray[Any, Any], convert: Callable[[Any], Any]) -> np.ndarray[Any, Any]:
    converted = np.empty(values.shape, object)
    flat = converted.reshape(-1)
    for position, element in enumerate(values.reshape(-1)):
        flat[position] = convert(element)
    return converted


def _name_members(
    values: np.ndarray[Any, Any], dtype: np.dtype[Any], name_of: NameOf
) -> np.ndarray[Any, Any]:
    assert dtype.names is not None
    members = {name: _name_references(values[name], dtype[name].base, name_of) for name in dtype.names}
    fields = [
        (name, object if member.dtype == object else dtype[name].base, member.shape[values.ndim :])
        for name, member in members.items()
    ]
    named = np.empty(values.shape, np.dtype(fields))
    for name, member in members.items():
        named[name] = member
    return named


class ReferenceNames:
    """Finds the path of a referenced object by its address, which the walk has noted.

    libhdf5's own `H5Rget_name` searches the whole file for each reference.
    """

    def __init__(
        self, file: h5py.h5f.FileID, path_of_address: dict[int, str], filename: str | None = None
    ) -> None:
        self._file = file
        self._path_of_address = path_of_address
        self._filename = filename

    def __call__(self, reference: Any) -> str:
        """Return the absolute path of the object, "" for a null reference.

        Behind an external link, where what a link does not lead to has no path in the scanned file, it is
        the path in the other file, after that file's name and a colon.
        """
        if not reference:
            return ""
        target = h5r.dereference(reference, self._file)
        path = self._path_of_address.get(object_info(target).address)
        if path is None:
            name = h5r.get_name(reference, self._file)
            if name is None:
                raise ValueError("a reference points to an object that has no path")
            path = name.decode("utf-8", "surrogateescape")
            path = path if self._filename is None else f"{self._filename}:{path}"
        return path
