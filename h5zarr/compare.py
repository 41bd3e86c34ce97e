"""Comparison of what h5py reads with what a Zarr reader gives, element by element (pure).

The forms that HDF5's values take on the Zarr side are written down here a second time, from h5py's
dtypes instead of the scanned datatypes, so that an error of the translators is not repeated.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from h5zarr.model import JSON

Values = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
NamesOf = Callable[[Any], frozenset[str]]
"""Returns every absolute path of the object that a reference points to; {""} for a null reference."""

_SHOWN_CHARACTERS = 120
_TEXT_KINDS = "OTUS"


_EXTENDED_BYTES = 10
_EXTENDED_MANTISSA_BITS = 63


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectName:
    """What stands for a reference in expected JSON: any name of the object will do."""

    names: frozenset[str]
    """Absolute paths of the object."""


# Data types -------------------------------------------------------------------------------


def flat_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return h5py's dtype with arrays of arrays as arrays of more dimensions, as which all of them read."""
    if dtype.subdtype is not None:
        element = flat_dtype(dtype.base)
        return np.dtype((element.base, dtype.shape + element.shape))
    if dtype.names is None:
        return dtype
    members = [flat_dtype(dtype[name]) for name in dtype.names]
    if all(member == dtype[name] for member, name in zip(members, dtype.names, strict=True)):
        return dtype
    offsets = [dtype.fields[name][1] for name in dtype.names] if dtype.fields else []
    return np.dtype(
        {"names": dtype.names, "formats": members, "offsets": offsets, "itemsize": dtype.itemsize}
    )


def same_data_type(dtype: np.dtype[Any], found: np.dtype[Any]) -> bool:
    """Return whether a Zarr data type is the form of h5py's dtype.

    Parameters
    ----------
    dtype
        h5py's dtype of the dataset, without the dimensions of an array datatype.
    found
        NumPy data type of the Zarr array.
    """
    if dtype.subdtype is not None or found.subdtype is not None:
        return dtype.shape == found.shape and same_data_type(dtype.base, found.base)
    if dtype.names is not None or found.names is not None:
        return dtype.names == found.names and _same_members(dtype, found)
    if dtype.kind == "O":
        return found.kind in _TEXT_KINDS
    if dtype.kind == "S":
        return found.kind == "S" and found.itemsize == max(1, dtype.itemsize)
    if found.kind == "V" and (dtype.kind == "V" or dtype.char in "gG"):
        return found.itemsize == dtype.itemsize
    return _native(dtype) == _native(found)


def _same_members(dtype: np.dtype[Any], found: np.dtype[Any]) -> bool:
    return all(same_data_type(dtype[name], found[name]) for name in dtype.names or ())


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype.newbyteorder("=")


# Values -----------------------------------------------------------------------------------


def equal(expected: Values, found: Values, dtype: np.dtype[Any], names_of: NamesOf) -> bool:
    """Return whether two arrays hold the same values; numbers are the same where all bits are.

    Parameters and errors are those of `unequal`, which tells where they differ.
    """
    if dtype.names is None and dtype.kind not in "OS" and not _is_padded(dtype):
        return np.array_equal(_words(expected), _words(found))
    return not unequal(expected, found, dtype, names_of).any()


def unequal(expected: Values, found: Values, dtype: np.dtype[Any], names_of: NamesOf) -> Mask:
    """Return where two arrays of one shape differ.

    Parameters
    ----------
    expected
        Values as h5py reads them.
    found
        Values as a Zarr reader gives them, of the same shape.
    dtype
        h5py's dtype of an element, whose metadata tells strings, references and sequences apart.
    names_of
        Names of the objects that references point to.

    Returns
    -------
    numpy.ndarray
        Booleans, shaped as ``expected``.
    """
    if dtype.names is not None:
        return _unequal_members(expected, found, dtype, names_of)
    if dtype.kind == "O":
        return _unequal_objects(expected, found, dtype, names_of)
    if dtype.kind == "S":  # NumPy leaves trailing NULs out of the comparison
        return np.asarray(expected != found, np.bool_)
    different: Mask = (_bytes(expected) != _bytes(found)).any(axis=1)
    return different.reshape(expected.shape)


def _unequal_members(expected: Values, found: Values, dtype: np.dtype[Any], names_of: NamesOf) -> Mask:
    mask = np.zeros(expected.shape, np.bool_)
    for name in dtype.names or ():
        member = unequal(expected[name], found[name], dtype[name].base, names_of)
        mask |= member.any(axis=tuple(range(mask.ndim, member.ndim)))
    return mask


def _unequal_objects(expected: Values, found: Values, dtype: np.dtype[Any], names_of: NamesOf) -> Mask:
    same = _object_equality(dtype, names_of)
    pairs = zip(expected.reshape(-1), found.astype(object).reshape(-1), strict=True)
    different = [not same(left, right) for left, right in pairs]
    return np.array(different, np.bool_).reshape(expected.shape)


def _object_equality(dtype: np.dtype[Any], names_of: NamesOf) -> Callable[[Any, Any], bool]:
    if h5py.check_ref_dtype(dtype) is not None:
        return lambda left, right: _as_bytes(right) in map(_as_bytes, names_of(left))
    element = h5py.check_vlen_dtype(dtype)
    if element is None or h5py.check_string_dtype(dtype) is not None:
        return lambda left, right: _as_bytes(left) == _as_bytes(right)
    base = np.dtype(element)
    return lambda left, right: _same_sequence(np.asarray(left), right, base, names_of)


def _same_sequence(expected: Values, found: object, dtype: np.dtype[Any], names_of: NamesOf) -> bool:
    if not isinstance(found, np.ndarray):
        return _is_json_of(json_form(expected, dtype, names_of), found)
    same_form = expected.shape == found.shape and same_data_type(dtype.base, found.dtype)
    return same_form and not unequal(expected, found, dtype.base, names_of).any()


def _is_json_of(expected: JSON, text: object) -> bool:
    try:
        return json_equal(expected, json.loads(_as_bytes(text)))
    except ValueError:
        return False


def _as_bytes(text: object) -> bytes:
    """Return text as HDF5 stores it; h5py gives 0 for a string that was never written."""
    if isinstance(text, str):
        return text.encode("utf-8", "surrogateescape")
    return bytes(text) if isinstance(text, bytes) else b""


def _flat(values: Values) -> Values:
    return np.ascontiguousarray(values.astype(_native(values.dtype), copy=False)).reshape(-1)


def _bytes(values: Values) -> npt.NDArray[np.uint8]:
    octets = _flat(values).view(np.uint8).reshape(values.size, values.dtype.itemsize)
    if not _is_padded(values.dtype):
        return octets
    parts = octets.reshape(-1, np.dtype(np.longdouble).itemsize)
    return parts[:, :_EXTENDED_BYTES].reshape(values.size, -1)


def _is_padded(dtype: np.dtype[Any]) -> bool:
    """Return whether numbers hold bytes that say nothing: those behind the ten of x87's long double."""
    return dtype.char in "gG" and np.finfo(np.longdouble).nmant == _EXTENDED_MANTISSA_BITS


def _words(values: Values) -> Values:
    octets = _flat(values).view(np.uint8)  # NumPy makes no smaller items of opaque ones
    return octets.view(np.uint64) if octets.nbytes % 8 == 0 else octets


# JSON -------------------------------------------------------------------------------------


def json_form(values: Values, dtype: np.dtype[Any], names_of: NamesOf) -> JSON:
    """Return the JSON that stands for values which h5py reads; a scalar for no dimensions.

    Parameters
    ----------
    values
        Values as h5py's low-level API reads them: text as bytes, sequences as arrays.
    dtype
        h5py's dtype of an element.
    names_of
        Names of the objects that references point to.

    Returns
    -------
    JSON
        With `ObjectName` in place of a reference.
    """
    if dtype.kind in "biu" or (dtype.kind == "f" and dtype.itemsize <= 8):
        return values.tolist()
    if values.ndim:
        return [json_form(values[position, ...], dtype, names_of) for position in range(len(values))]
    if dtype.names is not None:
        return {name: json_form(values[name], dtype[name].base, names_of) for name in dtype.names}
    return _element_form(values[()], dtype, names_of)


def _element_form(element: Any, dtype: np.dtype[Any], names_of: NamesOf) -> JSON:
    if h5py.check_ref_dtype(dtype) is not None:
        return ObjectName(names=names_of(element))
    if h5py.check_string_dtype(dtype) is not None or dtype.kind == "S":
        return _text_form(_as_bytes(element))
    base = h5py.check_vlen_dtype(dtype)
    if base is not None:
        return json_form(np.asarray(element), np.dtype(base), names_of)
    if dtype.kind == "c":
        return [float(element.real), float(element.imag)]
    return float(element) if dtype.kind == "f" else _base64(element.tobytes())


def _text_form(text: bytes) -> JSON:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return _base64(text)


def _base64(stored: bytes) -> dict[str, str]:
    return {"base64": base64.b64encode(stored).decode("ascii")}


def json_equal(expected: JSON, found: JSON) -> bool:
    """Return whether JSON says the same: NaN equals NaN, -0.0 differs from 0.0, true is no number."""
    if isinstance(expected, ObjectName):
        return found in expected.names if isinstance(found, str) else False
    if isinstance(expected, dict):
        return isinstance(found, dict) and _same_objects(expected, found)
    if isinstance(expected, list):
        return isinstance(found, list) and _same_lists(expected, found)
    if _is_number(expected) and _is_number(found):
        return _same_number(expected, found)
    return type(expected) is type(found) and bool(expected == found)


def json_same(expected: JSON, found: JSON) -> bool:
    """Return whether JSON is equal, its integers integers: xarray gives data the type of 1 or that of 1.0."""
    return json_equal(expected, found) and list(_number_types(expected)) == list(_number_types(found))


def _number_types(value: JSON) -> Iterator[type]:
    if isinstance(value, dict):
        for name in sorted(value):
            yield from _number_types(value[name])
    elif isinstance(value, list):
        for item in value:
            yield from _number_types(item)
    elif _is_number(value):
        yield type(value)


def _same_objects(expected: dict[str, JSON], found: dict[str, JSON]) -> bool:
    return expected.keys() == found.keys() and all(
        json_equal(expected[name], found[name]) for name in expected
    )


def _same_lists(expected: list[JSON], found: list[JSON]) -> bool:
    return len(expected) == len(found) and all(map(json_equal, expected, found))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same_number(expected: float, found: float) -> bool:
    if expected != expected or found != found:
        return expected != expected and found != found
    return expected == found and math.copysign(1, expected) == math.copysign(1, found)


# For people -------------------------------------------------------------------------------


def show(expected: Any, found: Any) -> tuple[str, str]:
    """Return two values as short texts; numbers that look alike with their bytes, hexadecimal."""
    texts = _shown(expected), _shown(found)
    if texts[0] != texts[1]:
        return texts
    return _with_bytes(expected, texts[0]), _with_bytes(found, texts[1])


def _shown(value: Any) -> str:
    if isinstance(value, ObjectName):
        return " or ".join(sorted(map(repr, value.names)))
    text = str(value) if isinstance(value, np.generic) and value.dtype.kind not in "SU" else repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def _with_bytes(value: Any, text: str) -> str:
    if not isinstance(value, np.generic):
        return f"{text} ({type(value).__name__})"
    native = value.astype(_native(value.dtype)) if value.dtype.names is None else value
    return f"{text} (bytes {native.tobytes()[:32].hex()})"
