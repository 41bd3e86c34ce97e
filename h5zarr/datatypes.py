"""HDF5 datatypes and fill values as Zarr data types and fill values (pure).

What a Zarr array gives is what h5py gives. Where the bytes in the file are just those values,
standard codecs read them; elsewhere (reduced precision, padding, foreign float formats) every
element is converted by libhdf5 in the codec ``h5zarr.hdf5``.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from h5zarr.dtype_json import numpy_data_type
from h5zarr.errors import UntranslatableError
from h5zarr.model import JSON, Datatype, DatatypeClass, FloatFields, Shape

_FLOAT_FORMATS = {2: "<e", 4: "<f", 8: "<d"}
_IEEE_FIELDS = {
    2: FloatFields(
        sign_position=15,
        exponent_position=10,
        exponent_length=5,
        exponent_bias=15,
        mantissa_position=0,
        mantissa_length=10,
        implied_bit=True,
    ),
    4: FloatFields(
        sign_position=31,
        exponent_position=23,
        exponent_length=8,
        exponent_bias=127,
        mantissa_position=0,
        mantissa_length=23,
        implied_bit=True,
    ),
    8: FloatFields(
        sign_position=63,
        exponent_position=52,
        exponent_length=11,
        exponent_bias=1023,
        mantissa_position=0,
        mantissa_length=52,
        implied_bit=True,
    ),
}
_INTEGER_LENGTHS = (1, 2, 4, 8)
_PLAIN_NAMES = {
    np.dtype(name).str.lstrip("<|"): name
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ZarrDataType:
    """The Zarr side of a datatype."""

    data_type: JSON
    """``data_type`` of the metadata document (Zarr v3 core, "Data types")."""
    dtype: np.dtype[Any]
    """NumPy dtype of one element, little-endian."""
    trailing_shape: Shape
    """Dimensions of an array datatype, which become the array's last ones (elements)."""
    endian: str | None
    """Byte order of what the codec ``bytes`` gets; None for single bytes."""
    needs_conversion: bool
    """Whether stored elements have to be converted by libhdf5 before they are such elements."""


def translate_datatype(
    datatype: Datatype, memory_dtype: np.dtype[Any] | None, *, clean_padding: bool
) -> ZarrDataType:
    """Return the Zarr data type of a datatype whose elements are no heap addresses.

    Parameters
    ----------
    datatype
        The datatype in the file.
    memory_dtype
        What h5py reads it as, packed and little-endian.
    clean_padding
        Whether every fixed-length string is known to end at its first NUL.

    Raises
    ------
    UntranslatableError
        There is no Zarr data type for it.
    """
    if memory_dtype is None:
        raise UntranslatableError(
            f"datatype {describe(datatype)}, for which h5py has no NumPy type",
            "read it with the HDF5 library's own tools, e.g. h5dump",
        )
    element = memory_dtype.base
    base = datatype
    while base.datatype_class is DatatypeClass.ARRAY and base.base is not None:
        base = base.base
    needs_conversion = (
        not is_exact(base)
        or element.itemsize != base.byte_length
        or (not clean_padding and depends_on_padding(base))
    )
    return ZarrDataType(
        data_type=zarr_data_type(element),
        dtype=element,
        trailing_shape=memory_dtype.shape,
        endian=_endian(base, element, needs_conversion),
        needs_conversion=needs_conversion,
    )


def zarr_data_type(dtype: np.dtype[Any]) -> JSON:
    """Return the Zarr v3 data type of a NumPy dtype: zarr-python's own, or else ``h5zarr.numpy``."""
    if not _is_known_to_zarr(dtype):
        return numpy_data_type(dtype)
    if dtype.names is not None:
        return _structured(dtype)
    plain = _PLAIN_NAMES.get(dtype.str.lstrip("<|"))
    return plain if plain is not None else _WITH_PARAMETERS[dtype.kind](dtype)


def _is_known_to_zarr(dtype: np.dtype[Any]) -> bool:
    """Return whether zarr-python has a data type: it has none for long doubles, and with array members."""
    if dtype.names is not None:
        return all(_is_known_to_zarr(dtype[name]) for name in dtype.names)
    if dtype.subdtype is not None:
        return False
    return dtype.kind in _WITH_PARAMETERS or dtype.str.lstrip("<|") in _PLAIN_NAMES


def _sized(name: str, length_bytes: int) -> JSON:
    return {"name": name, "configuration": {"length_bytes": length_bytes}}


def _time(dtype: np.dtype[Any]) -> JSON:
    unit, scale_factor = np.datetime_data(dtype)
    name = "numpy.datetime64" if dtype.kind == "M" else "numpy.timedelta64"
    return {"name": name, "configuration": {"unit": unit, "scale_factor": scale_factor}}


def _structured(dtype: np.dtype[Any]) -> JSON:
    assert dtype.names is not None
    fields = [[name, zarr_data_type(dtype[name])] for name in dtype.names]
    return {"name": "structured", "configuration": {"fields": fields}}


_WITH_PARAMETERS: dict[str, Callable[[np.dtype[Any]], JSON]] = {
    "S": lambda dtype: _sized("null_terminated_bytes", max(dtype.itemsize, 1)),
    "U": lambda dtype: _sized("fixed_length_utf32", max(dtype.itemsize, 4)),
    "V": lambda dtype: _sized("raw_bytes", dtype.itemsize),
    "M": _time,
    "m": _time,
}


_BIG_ENDIAN_TAG = "NUMPY:>"
"""How tags begin by which h5py tells that opaque elements are big-endian times."""


def _endian(datatype: Datatype, dtype: np.dtype[Any], needs_conversion: bool) -> str | None:
    if (dtype.kind in "SV" and dtype.names is None) or dtype.itemsize == 1:
        return None
    if needs_conversion:
        return "little"
    return next(iter(byte_orders(datatype)), "little")


# What the stored bytes are ---------------------------------------------------------------


def byte_orders(datatype: Datatype) -> set[str]:
    """Return the byte orders that occur in a datatype; single bytes have none."""
    parts = [member.datatype for member in datatype.members]
    if datatype.base is not None:
        parts.append(datatype.base)
    if parts:
        return set().union(*map(byte_orders, parts))
    if datatype.tag is not None and datatype.tag.startswith(_BIG_ENDIAN_TAG):
        return {"big"}
    if datatype.byte_length == 1 or datatype.byte_order is None:
        return set()
    return {datatype.byte_order}


def is_exact(datatype: Datatype) -> bool:
    """Return whether stored elements are, byte for byte, what h5py reads; padding of strings aside.

    Numbers may be big-endian, for Zarr's ``bytes`` codec knows that; compounds may not, because
    zarr-python 3.1 ignores it.
    """
    check = _EXACT.get(datatype.datatype_class)
    return check is not None and check(datatype)


def _is_exact_integer(datatype: Datatype) -> bool:
    return (
        datatype.byte_length in _INTEGER_LENGTHS
        and datatype.precision == 8 * datatype.byte_length
        and datatype.bit_offset == 0
        and datatype.byte_order in ("little", "big")
    )


def _is_exact_float(datatype: Datatype) -> bool:
    return (
        datatype.float_fields == _IEEE_FIELDS.get(datatype.byte_length)
        and datatype.float_fields is not None
        and datatype.byte_order in ("little", "big")
    )


def _is_exact_string(datatype: Datatype) -> bool:
    return not datatype.variable_length and datatype.padding != "space_padded"


def _is_exact_base(datatype: Datatype) -> bool:
    return datatype.base is not None and is_exact(datatype.base)


def _is_exact_compound(datatype: Datatype) -> bool:
    if is_complex(datatype):
        return True
    end = 0
    for member in datatype.members:
        if member.byte_offset != end or not is_exact(member.datatype):
            return False
        end += member.datatype.byte_length
    return end == datatype.byte_length and byte_orders(datatype) <= {"little"}


_EXACT = {
    DatatypeClass.INTEGER: _is_exact_integer,
    DatatypeClass.FLOAT: _is_exact_float,
    DatatypeClass.BITFIELD: _is_exact_integer,
    DatatypeClass.STRING: _is_exact_string,
    DatatypeClass.OPAQUE: lambda datatype: True,
    DatatypeClass.COMPOUND: _is_exact_compound,
    DatatypeClass.ENUM: _is_exact_base,
    DatatypeClass.ARRAY: _is_exact_base,
    DatatypeClass.COMPLEX: _is_exact_base,
}


def is_complex(datatype: Datatype) -> bool:
    """Return whether h5py takes a compound for complex numbers: two equal floats, ``r`` and ``i``."""
    if [member.name for member in datatype.members] != ["r", "i"]:
        return False
    real, imaginary = datatype.members
    return (
        real.datatype == imaginary.datatype
        and real.datatype.datatype_class is DatatypeClass.FLOAT
        and is_exact(real.datatype)
        and real.datatype.byte_length in (4, 8)
        and (real.byte_offset, imaginary.byte_offset) == (0, real.datatype.byte_length)
        and datatype.byte_length == 2 * real.datatype.byte_length
    )


def depends_on_padding(datatype: Datatype) -> bool:
    """Return whether only the values tell if the stored strings are those that h5py reads.

    libhdf5 ends a null-terminated string at its first NUL; Zarr's ``null_terminated_bytes`` keeps
    what stands behind it.
    """
    if datatype.datatype_class is DatatypeClass.STRING:
        return datatype.padding == "null_terminated" and datatype.byte_length > 1
    if datatype.base is not None and depends_on_padding(datatype.base):
        return True
    return any(depends_on_padding(member.datatype) for member in datatype.members)


def describe(datatype: Datatype) -> str:
    """Return a few words that tell what a datatype is, for messages and listings."""
    kind = datatype.datatype_class
    if kind in (DatatypeClass.INTEGER, DatatypeClass.FLOAT, DatatypeClass.BITFIELD, DatatypeClass.TIME):
        return _describe_number(datatype)
    if kind is DatatypeClass.STRING:
        length = "variable-length" if datatype.variable_length else f"{datatype.byte_length}-byte"
        return f"{length} {datatype.character_set} string"
    if kind is DatatypeClass.COMPOUND:
        return f"compound of {len(datatype.members)}"
    if kind is DatatypeClass.REFERENCE:
        return f"{datatype.reference_kind} reference"
    if datatype.base is not None:
        dimensions = "×".join(map(str, datatype.dimensions))
        return f"{kind}{dimensions and ' ' + dimensions} of {describe(datatype.base)}"
    return f"{datatype.byte_length}-byte {kind}"


def _describe_number(datatype: Datatype) -> str:
    sign = "unsigned " if datatype.signed is False else ""
    order = " big-endian" if datatype.byte_order == "big" and datatype.byte_length > 1 else ""
    order = " VAX" if datatype.byte_order == "vax" else order
    reduced = ""
    if datatype.precision != 8 * datatype.byte_length:
        reduced = f" ({datatype.precision} bits at bit {datatype.bit_offset})"
    return f"{sign}{8 * datatype.byte_length}-bit {datatype.datatype_class}{order}{reduced}"


# Fill values -----------------------------------------------------------------------------


def fill_value_json(element: bytes | None, dtype: np.dtype[Any]) -> JSON:
    """Return the ``fill_value`` of a metadata document (Zarr v3 core, "Fill value").

    Parameters
    ----------
    element
        One element of ``dtype`` as bytes; None for all zeros.
    dtype
        Little-endian NumPy dtype.
    """
    if element is None:
        element = bytes(dtype.itemsize)
    if dtype.kind == "S":
        return base64.b64encode(element.rstrip(b"\0")).decode()
    if dtype.kind == "V" or not _is_known_to_zarr(dtype):
        return base64.b64encode(element).decode()
    if dtype.kind == "c":
        half = dtype.itemsize // 2
        return [_float_json(element[:half]), _float_json(element[half:])]
    if dtype.kind == "f":
        return _float_json(element)
    scalar = np.frombuffer(element, dtype)[0]
    return int(scalar.astype(np.int64)) if dtype.kind in "mM" else scalar.item()


def _float_json(element: bytes) -> JSON:
    """Return a float so that its bits are kept: a number, a name, or hexadecimal for NaN payloads."""
    value: float = struct.unpack(_FLOAT_FORMATS[len(element)], element)[0]
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    if not math.isnan(value):
        return value
    bits = int.from_bytes(element, "little")
    quiet = int.from_bytes(struct.pack(_FLOAT_FORMATS[len(element)], math.nan), "little")
    return "NaN" if bits == quiet else f"0x{bits:0{2 * len(element)}x}"


def is_signalling(element: bytes | None, dtype: np.dtype[Any]) -> bool:
    """Return whether a fill value is a signalling NaN, which zarr-python makes a quiet one."""
    if element is None or dtype.kind not in "fc":
        return False
    part = dtype.itemsize // (2 if dtype.kind == "c" else 1)
    halves = [element[start : start + part] for start in range(0, dtype.itemsize, part)]
    return any(_is_signalling_float(half) for half in halves if part in _IEEE_FIELDS)


def _is_signalling_float(element: bytes) -> bool:
    quiet_bit = 1 << (_IEEE_FIELDS[len(element)].mantissa_length - 1)
    is_nan = math.isnan(struct.unpack(_FLOAT_FORMATS[len(element)], element)[0])
    return is_nan and not int.from_bytes(element, "little") & quiet_bit
