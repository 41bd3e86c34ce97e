"""HDF5 attributes as JSON attributes, the netCDF conventions included.

What JSON has no type for keeps its value in another form: a complex number is ``[re, im]``, a compound
an object by member name, a reference the absolute path of what it points to, opaque bytes and text that
is not UTF-8 ``{"base64": "…"}``. An attribute whose value would change is left out, with a `Problem`.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from h5zarr.errors import Problem, UntranslatableError
from h5zarr.model import JSON, Attribute, Datatype, DatatypeClass

Values = npt.NDArray[Any]

NETCDF_PLACEHOLDER = "This is a netCDF dimension but not a netCDF variable"
"""How the NAME of a dimension scale begins that stands for a netCDF dimension without a variable."""

READ_WITH_H5PY = "read this attribute with h5py"
MASK_AFTERWARDS = "read this attribute with h5py, and mask the values after opening, with Dataset.where"

_BOOKKEEPING = frozenset(
    {
        "_NCProperties",
        "_Netcdf4Coordinates",
        "_Netcdf4Dimid",
        "_nc3_strict",
    }
)
_SCALE_BOOKKEEPING = _BOOKKEEPING | {"CLASS", "NAME"}
_MASKING = frozenset({"_FillValue", "missing_value"})


def translate_attributes(
    attributes: Sequence[Attribute], *, path: str, data_type: np.dtype[Any] | None = None
) -> tuple[dict[str, JSON], tuple[Problem, ...]]:
    """Return the JSON attributes of one object, and a problem for each one that has no lossless form.

    netCDF's and HDF5's own bookkeeping (dimension scales, dimension numbers) is left out: dimension
    names say the same.

    Parameters
    ----------
    attributes
        The scanned attributes, in the file's order, which is kept.
    path
        Absolute HDF5 path of the object, for the problems.
    data_type
        NumPy data type that a Zarr reader gives the array (`numpy.dtypes.StringDType` for strings of
        variable length): ``_FillValue`` is encoded as xarray expects it for that type. None for a group.

    Returns
    -------
    tuple
        Attributes as `json` can write them, and problems.
    """
    is_scale = data_type is not None and is_dimension_scale(attributes)
    hidden = _SCALE_BOOKKEEPING if is_scale else _BOOKKEEPING
    shown = [attribute for attribute in attributes if attribute.name not in hidden]
    document: dict[str, JSON] = {}
    problems: list[Problem] = []
    for attribute in shown:
        try:
            name, value = _translate(attribute, data_type, shown)
        except UntranslatableError as refused:
            problems.append(_problem(path, attribute.name, refused))
        else:
            document[name] = value
    return document, tuple(problems)


def _translate(
    attribute: Attribute, data_type: np.dtype[Any] | None, every: Sequence[Attribute]
) -> tuple[str, JSON]:
    name = _utf8_name(attribute.name)
    value = attribute_value(attribute)
    if data_type is None or name not in _MASKING:
        return name, value
    return _masking_attribute(attribute, value, data_type, every)


def _problem(path: str, name: str, refused: UntranslatableError) -> Problem:
    readable = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return Problem(path=path, found=refused.found, remedy=refused.remedy, attribute=readable)


def _utf8_name(name: str) -> str:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise UntranslatableError(
            "its name, or that of a member, is not UTF-8, which names in JSON are",
            f"{READ_WITH_H5PY}, or rename it in the file",
        ) from None
    return name


# Dimension scales and enumerations --------------------------------------------------------


def is_dimension_scale(attributes: Iterable[Attribute]) -> bool:
    """Return whether the attributes are those of an HDF5 dimension scale."""
    return _text_of(attributes, "CLASS") == "DIMENSION_SCALE"


def is_dimension_placeholder(attributes: Sequence[Attribute]) -> bool:
    """Return whether the attributes are those of a netCDF dimension that has no variable."""
    name = _text_of(attributes, "NAME") if is_dimension_scale(attributes) else ""
    return name.startswith(NETCDF_PLACEHOLDER)


def _text_of(attributes: Iterable[Attribute], name: str) -> str:
    for attribute in attributes:
        if attribute.name == name and attribute.datatype.datatype_class is DatatypeClass.STRING:
            value = attribute_value(attribute)
            return value if isinstance(value, str) else ""
    return ""


def enumeration_fields(datatype: Datatype) -> dict[str, JSON]:
    """Return the extension field of ``zarr.json`` that keeps the names of an enumeration.

    A field beside the attributes, because xarray shows every attribute, and netCDF readers give an
    enumeration's names none. zarr-python has it under ``Array.metadata.extra_fields``.

    Parameters
    ----------
    datatype
        Datatype of a dataset: an enumeration, or one that contains enumerations.

    Returns
    -------
    dict
        ``{"hdf5_enum": {"must_understand": False, "members": {name: value}}}``; a compound has
        ``fields`` by member name instead of ``members``. Empty without an enumeration, or where it is
        HDF5's way to say bool.
    """
    names = _enumeration(datatype)
    return {"hdf5_enum": {"must_understand": False, **names}} if names else {}


def _enumeration(datatype: Datatype) -> dict[str, JSON]:
    if datatype.datatype_class is DatatypeClass.ENUM:
        return {} if is_boolean(datatype) else {"members": _readable_names(datatype.enumeration)}
    if datatype.base is not None:
        return _enumeration(datatype.base)
    fields = [(member.name, _enumeration(member.datatype)) for member in datatype.members]
    found = _readable_names([(name, names) for name, names in fields if names])
    return {"fields": found} if found else {}


def _readable_names(pairs: Iterable[tuple[str, JSON]]) -> dict[str, JSON]:
    return {
        name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"): value
        for name, value in pairs
    }


def is_boolean(datatype: Datatype) -> bool:
    """Return whether an enumeration is the one that h5py and PyTables write for bool."""
    return datatype.byte_length == 1 and dict(datatype.enumeration) == {"FALSE": 0, "TRUE": 1}


# Values -----------------------------------------------------------------------------------


def attribute_value(attribute: Attribute) -> JSON:
    """Return an attribute's value as JSON; one element of a one-dimensional attribute is a scalar.

    Parameters
    ----------
    attribute
        The scanned attribute.

    Returns
    -------
    JSON
        A null dataspace is ``[]``, or ``""`` where its type is one character, as in netCDF.

    Raises
    ------
    UntranslatableError
        If the value has no lossless form in JSON.
    """
    if attribute.value is None:
        return "" if _is_character(attribute.datatype) else []
    values = np.asarray(attribute.value)
    return json_value(values[0, ...] if attribute.shape == (1,) else values)


def _is_character(datatype: Datatype) -> bool:
    is_text = datatype.datatype_class is DatatypeClass.STRING
    return is_text and not datatype.variable_length and datatype.byte_length == 1


def json_value(values: Values) -> JSON:
    """Return an array as JSON: nested lists of numbers, text and so on, a scalar for no dimensions.

    Raises
    ------
    UntranslatableError
        If a value has no lossless form in JSON.
    """
    translate = _BY_KIND.get(values.dtype.kind)
    if translate is None:
        raise UntranslatableError(
            f"values of type {values.dtype}, which have no form in JSON", READ_WITH_H5PY
        )
    return translate(values)


def _numbers(values: Values) -> JSON:
    return values.tolist()


def _floats(values: Values) -> JSON:
    return _doubles(values).tolist()


def _doubles(values: Values) -> Values:
    if values.dtype.itemsize <= 8:
        return values
    with np.errstate(over="ignore", under="ignore"):
        doubles = values.astype(np.float64)
    if not np.array_equal(doubles, values, equal_nan=True):
        raise UntranslatableError(
            "a long double that no double is equal to, and JSON numbers are read as doubles", READ_WITH_H5PY
        )
    return doubles


def _complexes(values: Values) -> JSON:
    return _floats(np.stack([values.real, values.imag], axis=-1))


def _texts(values: Values) -> JSON:
    return _items(values.tolist(), values.ndim, _text)


def _structures(values: Values) -> JSON:
    return _nested(values, _bytes if values.dtype.names is None else _compound)


def _opaques(values: Values) -> JSON:
    return _nested(values, _bytes)


def _objects(values: Values) -> JSON:
    return _items(values.tolist(), values.ndim, _object)


def _items(items: Any, rank: int, translate: Callable[[Any], JSON]) -> JSON:
    if rank == 0:
        return translate(items)
    return [_items(item, rank - 1, translate) for item in items]


def _nested(values: Values, translate: Callable[[Values], JSON]) -> JSON:
    if values.ndim == 0:
        return translate(values)
    return [_nested(values[position, ...], translate) for position in range(len(values))]


def _compound(values: Values) -> dict[str, JSON]:
    return {_utf8_name(name): json_value(values[name]) for name in values.dtype.names or ()}


def _object(element: object) -> JSON:
    match element:
        case bytes():
            return _text(element)
        case str():
            return _text(element.encode("utf-8", "surrogateescape"))
        case np.ndarray():
            return json_value(element)
    raise UntranslatableError(f"a {type(element).__name__}, which has no form in JSON", READ_WITH_H5PY)


def _text(stored: bytes) -> JSON:
    try:
        return stored.decode("utf-8")
    except UnicodeDecodeError:
        return _base64(stored)


def _bytes(values: Values) -> JSON:
    return _base64(values.tobytes())


def _base64(stored: bytes) -> dict[str, str]:
    return {"base64": base64.b64encode(stored).decode("ascii")}


_BY_KIND: dict[str, Callable[[Values], JSON]] = {
    "b": _numbers,
    "i": _numbers,
    "u": _numbers,
    "f": _floats,
    "c": _complexes,
    "S": _texts,
    "O": _objects,
    "V": _structures,
    "M": _opaques,
    "m": _opaques,
}


# _FillValue and missing_value -------------------------------------------------------------


def _masking_attribute(
    attribute: Attribute, value: JSON, data_type: np.dtype[Any], every: Sequence[Attribute]
) -> tuple[str, JSON]:
    if attribute.name == "missing_value":
        return "missing_value", _maskable(attribute, value)
    try:
        fill = encode_fill_value(attribute.value, data_type)
    except UntranslatableError:
        return _fill_as_missing(attribute, value, data_type, every)
    if data_type.kind == "u" and _text_of(every, "_Unsigned") == "false":
        half = 2 ** (8 * data_type.itemsize - 1)
        if fill >= half:
            # xarray makes a signed number of it, for which it is too large (`_convert_unsigned_fill_value`).
            return _fill_as_missing(attribute, fill - 2 * half, data_type, every)
    return "_FillValue", fill


def _fill_as_missing(
    attribute: Attribute, value: JSON, data_type: np.dtype[Any], every: Sequence[Attribute]
) -> tuple[str, JSON]:
    # xarray masks `missing_value` in the same way, and takes every JSON number and string there.
    is_taken = any(other.name == "missing_value" for other in every)
    if data_type.kind not in "biufT" or is_taken:
        raise UntranslatableError(
            f"a value of class {attribute.datatype.datatype_class}, which xarray does not decode for such"
            " data in Zarr v3: it could not open the variable",
            MASK_AFTERWARDS,
        )
    return "missing_value", _maskable(attribute, value)


def _maskable(attribute: Attribute, value: JSON) -> JSON:
    elements = value if isinstance(value, list) else [value]
    scalars = all(isinstance(element, bool | int | float | str) for element in elements)
    if scalars and np.asarray(attribute.value).dtype.kind != "c":
        return value
    raise UntranslatableError(
        f"a value of class {attribute.datatype.datatype_class}, which keeps xarray from opening the variable",
        MASK_AFTERWARDS,
    )


def encode_fill_value(value: Any, data_type: np.dtype[Any]) -> JSON:
    """Return a ``_FillValue`` attribute as xarray decodes it in Zarr v3 (its `FillValueCoder`).

    Parameters
    ----------
    value
        The attribute's value, a NumPy array of one element.
    data_type
        NumPy data type of the array that it belongs to.

    Returns
    -------
    JSON
        Base64 of a little-endian float64 for floats, two of them for complex numbers, else a number.

    Raises
    ------
    UntranslatableError
        If the value is not one element that the data type has exactly.
    """
    encode = _FILL_BY_KIND.get(data_type.kind)
    values = np.asarray(value)
    if encode is None or values.size != 1 or values.dtype.kind not in "biufc":
        raise _no_fill_value(data_type)
    return encode(values.reshape(())[()], data_type)


def _no_fill_value(data_type: np.dtype[Any]) -> UntranslatableError:
    return UntranslatableError(f"no value of type {data_type}", READ_WITH_H5PY)


def _float_fill(element: Any, data_type: np.dtype[Any]) -> str:
    if element.dtype.kind == "c":
        raise _no_fill_value(data_type)
    double = float(element)
    if double != element.item() and not np.isnan(element):
        raise _no_fill_value(data_type)
    return base64.standard_b64encode(struct.pack("<d", double)).decode("ascii")


def _complex_fill(element: Any, data_type: np.dtype[Any]) -> list[str]:
    return [_float_fill(part, data_type) for part in (element.real, element.imag)]


def _integer_fill(element: Any, data_type: np.dtype[Any]) -> int:
    if element.dtype.kind == "c" or not np.isfinite(element):
        raise _no_fill_value(data_type)
    limits = np.iinfo(data_type)
    number = int(element)
    if number != element.item() or not limits.min <= number <= limits.max:
        raise _no_fill_value(data_type)
    return number


def _bool_fill(element: Any, data_type: np.dtype[Any]) -> bool:
    if element.item() not in (0, 1):
        raise _no_fill_value(data_type)
    return bool(element)


_FILL_BY_KIND: dict[str, Callable[[Any, np.dtype[Any]], JSON]] = {
    "f": _float_fill,
    "c": _complex_fill,
    "i": _integer_fill,
    "u": _integer_fill,
    "b": _bool_fill,
}
