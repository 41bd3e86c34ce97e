"""Comparison of HDF5 attributes, as h5py reads them, with the JSON attributes of a Zarr node."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from h5zarr.compare import NamesOf, json_equal, json_form
from h5zarr.model import JSON

_ALWAYS_HIDDEN = frozenset(
    {
        "_NCProperties",
        "_Netcdf4Coordinates",
        "_Netcdf4Dimid",
        "_nc3_strict",
    }
)
_HIDDEN_OF_SCALES = _ALWAYS_HIDDEN | {"CLASS", "NAME"}
# Names that users may give to attributes of their own: only the datatype tells.
_OF_DIMENSION_SCALES = frozenset({"DIMENSION_LIST", "REFERENCE_LIST"})
_PLACEHOLDER = b"This is a netCDF dimension but not a netCDF variable"
_ADDED = frozenset({"flag_values", "flag_meanings"})
_ADDED_PREFIXES = ("h5zarr", "hdf5_")
_READ_ERRORS = (OSError, RuntimeError, ValueError, TypeError, KeyError, OverflowError)


@dataclass(frozen=True, kw_only=True, slots=True)
class AttributeDifference:
    """One attribute that is not the same on both sides."""

    name: str
    """Its name."""
    expected: JSON
    """What it should be; None where HDF5 does not have it."""
    found: JSON
    """What it is; None where Zarr does not have it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Null:
    """What stands for the value of an attribute that has no elements."""


def is_placeholder(dataset: h5py.Dataset) -> bool:
    """Return whether a dataset stands for a netCDF dimension that has no variable."""
    return is_scale(dataset) and _raw_text(dataset, "NAME").startswith(_PLACEHOLDER)


def is_scale(node: h5py.Dataset | h5py.Group) -> bool:
    """Return whether an object is an HDF5 dimension scale."""
    return _raw_text(node, "CLASS") == b"DIMENSION_SCALE"


def _raw_text(node: h5py.Dataset | h5py.Group, name: str) -> bytes:
    if name not in node.attrs:
        return b""
    try:
        value = node.attrs[name]
    except _READ_ERRORS:
        return b""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    return bytes(value).rstrip(b"\0") if isinstance(value, bytes) else b""


def attribute_differences(
    node: h5py.Dataset | h5py.Group,
    found: Mapping[str, JSON],
    *,
    reported: frozenset[str],
    names_of: NamesOf,
    array_kind: str | None = None,
    zarr_format: int = 3,
) -> Iterator[AttributeDifference]:
    """Yield every attribute that differs, is missing, or was made up.

    Parameters
    ----------
    node
        The HDF5 object.
    found
        Attributes of the Zarr node.
    reported
        Names of attributes that the references report as left out.
    names_of
        Names of the objects that references point to.
    array_kind
        Kind of the Zarr array's NumPy data type, which decides how ``_FillValue`` is encoded; None for
        a group.
    zarr_format
        2 has conventions of its own for dimension names and ``_FillValue``.
    """
    names = _names(node)
    is_dataset_scale = isinstance(node, h5py.Dataset) and is_scale(node)
    hidden = _HIDDEN_OF_SCALES if is_dataset_scale else _ALWAYS_HIDDEN
    hidden |= {name for name in _OF_DIMENSION_SCALES & names if _belongs_to_scales(node, name)}
    kind = array_kind if zarr_format == 3 else None
    for name in sorted(names):
        optional = name in hidden or readable(name) in reported or (zarr_format == 2 and name == "_FillValue")
        if not (name in found or optional) or (name in found and readable(name) not in reported):
            yield from _difference(node, name, found, names_of, kind)
    for name in sorted(found.keys() - names):
        if not _may_be_added(name, names, found, zarr_format):
            yield AttributeDifference(name=name, expected=None, found=found[name])


def _names(node: h5py.Dataset | h5py.Group) -> set[str]:
    """Return the names of all attributes; h5py gives bytes for what is not UTF-8.

    They are not iterated over: libhdf5 would open a dataset again, without its external file prefix.
    """
    opened = (h5py.h5a.open(node.id, index=number) for number in range(h5py.h5a.get_num_attrs(node.id)))
    names = (attribute.name for attribute in opened)
    return {name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name for name in names}


def _belongs_to_scales(node: h5py.Dataset | h5py.Group, name: str) -> bool:
    """Return whether an attribute of such a name is the one that the dimension scale API writes."""
    if not isinstance(node, h5py.Dataset):
        return False
    try:
        attribute = h5py.h5a.open(node.id, name.encode())
        datatype = attribute.get_type()
        if attribute.get_space().get_simple_extent_ndims() != 1:
            return False
    except _READ_ERRORS:  # then its comparison tells what is wrong
        return False
    return _refers(_inner_types(datatype, name))


def _inner_types(datatype: h5py.h5t.TypeID, name: str) -> list[h5py.h5t.TypeID]:
    """Return what such a list consists of: sequences in DIMENSION_LIST, else members of a compound."""
    if name == "DIMENSION_LIST":
        return [datatype.get_super()] if datatype.get_class() == h5py.h5t.VLEN else []
    if datatype.get_class() != h5py.h5t.COMPOUND:
        return []
    return [datatype.get_member_type(number) for number in range(datatype.get_nmembers())]


def _refers(datatypes: list[h5py.h5t.TypeID]) -> bool:
    """Return whether one is a reference to an object: HDF5 1.12 has a newer type of those, too."""
    region = h5py.h5t.STD_REF_DSETREG
    return any(one.get_class() == h5py.h5t.REFERENCE and not one.equal(region) for one in datatypes)


def readable(text: str) -> str:
    """Return a name as problems spell it: bytes that are not UTF-8 as escapes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _may_be_added(name: str, names: set[str], found: Mapping[str, JSON], zarr_format: int) -> bool:
    if name == "missing_value":  # carries a _FillValue that xarray could not decode
        return "_FillValue" in names and "_FillValue" not in found
    if name == "_ARRAY_DIMENSIONS":
        return zarr_format == 2
    return name in _ADDED or name.startswith(_ADDED_PREFIXES)


def _difference(
    node: h5py.Dataset | h5py.Group,
    name: str,
    found: Mapping[str, JSON],
    names_of: NamesOf,
    array_kind: str | None,
) -> Iterator[AttributeDifference]:
    try:
        expected = _expected(node, name, names_of)
    except _READ_ERRORS as error:
        unreadable = f"what h5py cannot read: {' '.join(str(error).split())}"
        yield AttributeDifference(name=name, expected=unreadable, found=found.get(name))
        return
    if array_kind == "u" and name == "_FillValue" and name not in found:
        expected = _as_signed(expected, node, found)
    same = _same_fill if name == "_FillValue" and array_kind is not None else _same_plain
    if not same(name, expected, found, array_kind):
        shown = None if isinstance(expected, _Null) else expected
        yield AttributeDifference(name=name, expected=shown, found=found.get(name))


def _expected(node: h5py.Dataset | h5py.Group, name: str, names_of: NamesOf) -> JSON:
    attribute = h5py.h5a.open(node.id, name.encode("utf-8", "surrogateescape"))
    if attribute.get_space().get_simple_extent_type() == h5py.h5s.NULL:
        return _Null()
    dtype = attribute.dtype
    values = np.zeros(attribute.shape + dtype.shape, dtype.base)
    # libhdf5 converts no opaque type into one of another tag, and h5py's has none.
    opaque = dtype.kind == "V" and dtype.names is None and dtype.subdtype is None
    attribute.read(values, mtype=attribute.get_type() if opaque else h5py.h5t.py_create(dtype))
    return json_form(values[0, ...] if attribute.shape == (1,) else values, dtype.base, names_of)


def _same_plain(name: str, expected: JSON, found: Mapping[str, JSON], _: str | None) -> bool:
    if name not in found:
        return False
    if isinstance(expected, _Null):  # netCDF writes an empty text so, and readers show one
        return found[name] in (None, "", [])
    return json_equal(expected, found[name])


def _same_fill(name: str, expected: JSON, found: Mapping[str, JSON], array_kind: str | None) -> bool:
    if name not in found:
        return _same_plain("missing_value", expected, found, None)
    if array_kind == "f":
        return json_equal(_as_double(expected), _decoded(found[name]))
    if array_kind == "c" and isinstance(found[name], list):
        parts = expected if isinstance(expected, list) else [expected, 0.0]
        return json_equal([_as_double(part) for part in parts], [_decoded(part) for part in found[name]])
    if array_kind == "b":
        return isinstance(found[name], bool) and found[name] == bool(expected)
    return json_equal(expected, found[name])


def _as_signed(number: JSON, node: h5py.Dataset | h5py.Group, found: Mapping[str, JSON]) -> JSON:
    """Return a number as xarray compares it with unsigned data that an attribute tells to be signed."""
    half = 2 ** (8 * node.dtype.itemsize - 1) if isinstance(node, h5py.Dataset) else 0
    is_signed = found.get("_Unsigned") == "false" and isinstance(number, int)
    return number - 2 * half if is_signed and number >= half else number


def _as_double(number: JSON) -> JSON:
    return float(number) if isinstance(number, int | float) else number


def _decoded(text: Any) -> float | None:
    """Return the number that xarray's `FillValueCoder` decodes; None where it cannot."""
    try:
        (number,) = struct.unpack("<d", base64.standard_b64decode(text))
    except (TypeError, binascii.Error, struct.error):
        return None
    return float(number)
