"""Comparison of HDF5 attributes, as h5py reads them, with the JSON attributes of a Zarr node."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from h5zarr.compare import NamesOf, flat_dtype, json_equal, json_form, json_same
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
_LINKS = "hdf5_links"
_MASKED_KINDS = "biufc"
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


def with_mask(attributes: Mapping[str, JSON], fill_value: Any, array_kind: str) -> dict[str, JSON]:
    """Return attributes of a Zarr v2 array as xarray has them: it masks ``fill_value``, if there is one.

    Parameters
    ----------
    attributes
        What stands in ``.zattrs``.
    fill_value
        That of the array; None where it is null.
    array_kind
        Kind of the array's NumPy data type; xarray masks numbers.
    """
    if fill_value is None or array_kind not in _MASKED_KINDS:
        return dict(attributes)
    number = fill_value.item()
    return {**attributes, "_FillValue": [number.real, number.imag] if array_kind == "c" else number}


def attribute_differences(
    node: h5py.Dataset | h5py.Group,
    found: Mapping[str, JSON],
    *,
    reported: frozenset[str],
    names_of: NamesOf,
    own_names: Container[str] = (),
    array_kind: str | None = None,
    zarr_format: int = 3,
) -> Iterator[AttributeDifference]:
    """Yield every attribute that differs, is missing, or was made up.

    Parameters
    ----------
    node
        The HDF5 object.
    found
        Attributes of the Zarr node; of a Zarr v2 array, as `with_mask` returns them.
    reported
        Names of attributes that the references report as left out.
    names_of
        Names of the objects that references point to.
    own_names
        Paths of the object, which ``hdf5_links`` may tell.
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
    same_fill = _fill_comparison(array_kind, zarr_format)
    for name in sorted(names):
        optional = name in hidden or readable(name) in reported
        if name in found or not optional:
            same = same_fill if name == "_FillValue" else _same_plain
            yield from _difference(node, name, found, names_of, same, is_unsigned=array_kind == "u")
    for name in sorted(found.keys() - names):
        if not _may_be_added(name, names, found, own_names, array_kind, zarr_format):
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


def same_enumeration(dtype: np.dtype[Any], told: Mapping[str, JSON]) -> bool:
    """Return whether the field ``hdf5_enum`` of an array tells the names that values have in HDF5.

    Parameters
    ----------
    dtype
        h5py's dtype of the dataset. Where it is bool, FALSE and TRUE may be told or not.
    told
        The field; {} where there is none.
    """
    names = {name: value for name, value in told.items() if name != "must_understand"}
    return json_same(_without_booleans(enumeration_names(dtype)), _without_booleans(names))


def _without_booleans(names: Mapping[str, JSON]) -> dict[str, JSON]:
    if names.get("members") == {"FALSE": 0, "TRUE": 1}:
        return {}
    fields = names.get("fields")
    if not isinstance(fields, dict):
        return dict(names)
    left = {name: _without_booleans(one) for name, one in fields.items() if isinstance(one, dict)}
    named = {name: one for name, one in left.items() if one}
    return {"fields": named} if named else {}


def enumeration_names(dtype: np.dtype[Any]) -> dict[str, JSON]:
    """Return the names of an enumeration's values as ``hdf5_enum`` tells them; {} where there are none.

    Parameters
    ----------
    dtype
        h5py's dtype of the dataset.
    """
    base = dtype.base
    members = h5py.check_enum_dtype(base)
    if members is not None:
        return {"members": {readable(name): int(value) for name, value in members.items()}}
    sequence = h5py.check_vlen_dtype(base)
    if sequence not in (None, str, bytes):
        return enumeration_names(np.dtype(sequence))
    fields = {readable(name): enumeration_names(base[name]) for name in base.names or ()}
    named = {name: names for name, names in fields.items() if names}
    return {"fields": named} if named else {}


def _may_be_added(
    name: str,
    names: set[str],
    found: Mapping[str, JSON],
    own_names: Container[str],
    array_kind: str | None,
    zarr_format: int,
) -> bool:
    match name:
        case "missing_value":  # carries a _FillValue that xarray could not decode
            return "_FillValue" in names and "_FillValue" not in found
        case "_FillValue":  # masking NaN changes nothing
            is_nan = isinstance(found[name], float) and found[name] != found[name]
            return zarr_format == 2 and array_kind == "f" and is_nan
        case "_ARRAY_DIMENSIONS":
            return zarr_format == 2
        case _:
            return name == _LINKS and _are_among(found[name], own_names)


def _are_among(told: JSON, names: Container[str]) -> bool:
    return isinstance(told, list) and all(isinstance(name, str) and name in names for name in told)


_Comparison = Callable[[str, JSON, Mapping[str, JSON]], bool]


def _difference(
    node: h5py.Dataset | h5py.Group,
    name: str,
    found: Mapping[str, JSON],
    names_of: NamesOf,
    same: _Comparison,
    *,
    is_unsigned: bool,
) -> Iterator[AttributeDifference]:
    try:
        expected = _expected(node, name, names_of)
    except _READ_ERRORS as error:
        unreadable = f"what h5py cannot read: {' '.join(str(error).split())}"
        yield AttributeDifference(name=name, expected=unreadable, found=found.get(name))
        return
    if is_unsigned and name == "_FillValue" and name not in found:
        expected = _as_signed(expected, node, found)
    if not same(name, expected, found):
        yield AttributeDifference(name=name, expected=expected, found=found.get(name))


def _expected(node: h5py.Dataset | h5py.Group, name: str, names_of: NamesOf) -> JSON:
    attribute = h5py.h5a.open(node.id, name.encode("utf-8", "surrogateescape"))
    dtype = flat_dtype(attribute.dtype)
    if attribute.get_space().get_simple_extent_type() == h5py.h5s.NULL:
        return "" if dtype == "S1" else []  # netCDF writes an empty text so
    values = np.zeros(attribute.shape + dtype.shape, dtype.base)
    # libhdf5 converts no opaque type into one of another tag, and h5py's has none.
    opaque = dtype.kind == "V" and dtype.names is None and dtype.subdtype is None
    attribute.read(values, mtype=attribute.get_type() if opaque else h5py.h5t.py_create(attribute.dtype))
    return json_form(values[0, ...] if attribute.shape == (1,) else values, dtype.base, names_of)


def _same_plain(name: str, expected: JSON, found: Mapping[str, JSON]) -> bool:
    return name in found and json_same(expected, found[name])


# _FillValue ------------------------------------------------------------------------------


def _fill_comparison(array_kind: str | None, zarr_format: int) -> _Comparison:
    """Return what compares ``_FillValue``, which is written as the array's data type wants it."""
    if array_kind is None or array_kind not in _MASKED_KINDS:
        return _same_as_missing if array_kind is not None else _same_plain
    decode = _decoded if zarr_format == 3 else _as_double

    def same(name: str, expected: JSON, found: Mapping[str, JSON]) -> bool:
        if name not in found:
            return _same_as_missing(name, expected, found)
        return _same_number(_single(expected), found[name], array_kind, decode)

    return same


def _same_as_missing(name: str, expected: JSON, found: Mapping[str, JSON]) -> bool:
    """Compare with ``missing_value`` where the data type has no form of ``_FillValue``."""
    return _same_plain(name if name in found else "missing_value", expected, found)


def _same_number(expected: JSON, found: JSON, array_kind: str, decode: Callable[[Any], JSON]) -> bool:
    match array_kind:
        case "f":
            return json_equal(_as_double(expected), decode(found))
        case "c":
            parts = expected if isinstance(expected, list) else [expected, 0.0]
            is_pair = isinstance(found, list) and len(found) == len(parts)
            return is_pair and json_equal(list(map(_as_double, parts)), list(map(decode, found)))
        case "b":
            return isinstance(found, bool) and isinstance(expected, int | float) and found == expected
        case _:
            return type(found) is int and isinstance(expected, int | float) and found == expected


def _single(value: JSON) -> JSON:
    """Return the only element of nested lists; other lists as they are."""
    while isinstance(value, list) and len(value) == 1:
        (value,) = value
    return value


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
