"""HDF5 datatypes as they are on disk, read through h5py's low-level API."""

from __future__ import annotations

from typing import Any

from h5py import h5t

from h5zarr import libhdf5
from h5zarr.model import Datatype, DatatypeClass, FloatFields, Member

_BYTE_ORDERS = {h5t.ORDER_LE: "little", h5t.ORDER_BE: "big", 2: "vax"}
_PADDINGS = {
    h5t.STR_NULLTERM: "null_terminated",
    h5t.STR_NULLPAD: "null_padded",
    h5t.STR_SPACEPAD: "space_padded",
}
_COMPLEX_CLASS = 11
"""`H5T_COMPLEX`, of HDF5 2.0; h5py built with an older one has no name for it."""


def read_datatype(datatype: h5t.TypeID) -> Datatype:
    """Return what an HDF5 datatype is, members and bases included.

    Raises
    ------
    ValueError
        The class is one that HDF5 did not have when this was written.
    """
    reader = _READERS.get(datatype.get_class())
    if reader is None:
        raise ValueError(f"datatype class {datatype.get_class()} is not known")
    return reader(datatype)


def _atomic(datatype: h5t.TypeID) -> dict[str, Any]:
    return {
        "byte_length": datatype.get_size(),
        "byte_order": _BYTE_ORDERS.get(libhdf5.byte_order(datatype)),
        "precision": libhdf5.precision(datatype),
        "bit_offset": libhdf5.bit_offset(datatype),
    }


def _integer(datatype: h5t.TypeID) -> Datatype:
    signed = datatype.get_sign() == h5t.SGN_2
    return Datatype(datatype_class=DatatypeClass.INTEGER, signed=signed, **_atomic(datatype))


def _float(datatype: h5t.TypeID) -> Datatype:
    sign, exponent, exponent_length, mantissa, mantissa_length = datatype.get_fields()
    fields = FloatFields(
        sign_position=sign,
        exponent_position=exponent,
        exponent_length=exponent_length,
        exponent_bias=datatype.get_ebias(),
        mantissa_position=mantissa,
        mantissa_length=mantissa_length,
        implied_bit=datatype.get_norm() == h5t.NORM_IMPLIED,
    )
    return Datatype(datatype_class=DatatypeClass.FLOAT, float_fields=fields, **_atomic(datatype))


def _bitfield(datatype: h5t.TypeID) -> Datatype:
    return Datatype(datatype_class=DatatypeClass.BITFIELD, **_atomic(datatype))


def _time(datatype: h5t.TypeID) -> Datatype:
    return Datatype(datatype_class=DatatypeClass.TIME, **_atomic(datatype))


def _string(datatype: h5t.TypeID) -> Datatype:
    variable = datatype.is_variable_str()
    return Datatype(
        datatype_class=DatatypeClass.STRING,
        byte_length=datatype.get_size(),
        character_set="utf-8" if datatype.get_cset() == h5t.CSET_UTF8 else "ascii",
        padding=None if variable else _PADDINGS.get(datatype.get_strpad()),
        variable_length=variable,
    )


def _opaque(datatype: h5t.TypeID) -> Datatype:
    tag = datatype.get_tag().decode("utf-8", "surrogateescape")
    return Datatype(datatype_class=DatatypeClass.OPAQUE, byte_length=datatype.get_size(), tag=tag)


def _compound(datatype: h5t.TypeID) -> Datatype:
    members = tuple(
        Member(
            name=datatype.get_member_name(number).decode("utf-8", "surrogateescape"),
            byte_offset=datatype.get_member_offset(number),
            datatype=read_datatype(datatype.get_member_type(number)),
        )
        for number in range(datatype.get_nmembers())
    )
    return Datatype(datatype_class=DatatypeClass.COMPOUND, byte_length=datatype.get_size(), members=members)


def _reference(datatype: h5t.TypeID) -> Datatype:
    kind = "standard"
    if datatype.equal(h5t.STD_REF_OBJ):
        kind = "object"
    elif datatype.equal(h5t.STD_REF_DSETREG):
        kind = "region"
    return Datatype(
        datatype_class=DatatypeClass.REFERENCE, byte_length=datatype.get_size(), reference_kind=kind
    )


def _enum(datatype: h5t.TypeID) -> Datatype:
    enumeration = tuple(
        (
            datatype.get_member_name(number).decode("utf-8", "surrogateescape"),
            int(datatype.get_member_value(number)),
        )
        for number in range(datatype.get_nmembers())
    )
    base = read_datatype(datatype.get_super())
    return Datatype(
        datatype_class=DatatypeClass.ENUM,
        byte_length=datatype.get_size(),
        byte_order=base.byte_order,
        enumeration=enumeration,
        base=base,
    )


def _vlen(datatype: h5t.TypeID) -> Datatype:
    return Datatype(
        datatype_class=DatatypeClass.VLEN,
        byte_length=datatype.get_size(),
        base=read_datatype(datatype.get_super()),
    )


def _array(datatype: h5t.TypeID) -> Datatype:
    return Datatype(
        datatype_class=DatatypeClass.ARRAY,
        byte_length=datatype.get_size(),
        base=read_datatype(datatype.get_super()),
        dimensions=tuple(datatype.get_array_dims()),
    )


def _complex(datatype: h5t.TypeID) -> Datatype:
    base = read_datatype(datatype.get_super())
    return Datatype(
        datatype_class=DatatypeClass.COMPLEX,
        byte_length=datatype.get_size(),
        byte_order=base.byte_order,
        base=base,
    )


_READERS = {
    h5t.INTEGER: _integer,
    h5t.FLOAT: _float,
    h5t.TIME: _time,
    h5t.STRING: _string,
    h5t.BITFIELD: _bitfield,
    h5t.OPAQUE: _opaque,
    h5t.COMPOUND: _compound,
    h5t.REFERENCE: _reference,
    h5t.ENUM: _enum,
    h5t.VLEN: _vlen,
    h5t.ARRAY: _array,
    _COMPLEX_CLASS: _complex,
}
