"""NumPy dtypes as JSON, and the metadata of the Zarr data types that h5zarr adds (pure).

A plain dtype is its `numpy.dtype.str`; a compound is a list of its members, each with its name, its
dtype and, where it is an array, its shape::

    "<f16"
    [["time", "<f8"], ["position", "<f4", [3]], ["flags", [["good", "|b1"], ["name", "|S8"]]]]

There is one form for each dtype: members follow one another without padding, and hold no objects.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from h5zarr.errors import ReferencesError
from h5zarr.model import JSON

NUMPY_TYPE = "h5zarr.numpy"
SEQUENCE_TYPE = "h5zarr.sequence"
"""Name of the data type, and of the codec that it needs."""

# NumPy takes much more for a dtype: names, lists in one string, classes
_PLAIN = re.compile(r"[<>|][a-zA-Z]\d+(\[\d*\w+\])?")


def numpy_data_type(dtype: np.dtype[Any]) -> JSON:
    """Return data type ``h5zarr.numpy`` of a packed dtype, as it stands in a metadata document."""
    return {"name": NUMPY_TYPE, "configuration": {"descr": dtype_to_json(dtype)}}


def sequence_data_type(base: np.dtype[Any]) -> JSON:
    """Return data type ``h5zarr.sequence`` of items of a packed dtype, which may be a subarray."""
    configuration = {"base": dtype_to_json(base.base)}
    if base.shape:
        configuration["base_shape"] = list(base.shape)
    return {"name": SEQUENCE_TYPE, "configuration": configuration}


def dtype_to_json(dtype: np.dtype[Any]) -> JSON:
    """Return the JSON form of a packed dtype that is no subarray."""
    if dtype.names is None:
        return dtype.str
    return [_member_to_json(name, dtype[name]) for name in dtype.names]


def _member_to_json(name: str, dtype: np.dtype[Any]) -> JSON:
    form = [name, dtype_to_json(dtype.base)]
    return [*form, list(dtype.shape)] if dtype.shape else form


def dtype_from_json(form: JSON) -> np.dtype[Any]:
    """Return the dtype that a JSON form describes.

    Raises
    ------
    ReferencesError
        It is not the form of a dtype, or NumPy has no such dtype on this machine.
    """
    try:
        dtype = _parse(form)
    except (TypeError, ValueError) as error:
        raise ReferencesError(f"not a NumPy dtype on this machine: {form!r}") from error
    if dtype.hasobject or dtype.itemsize == 0 or dtype_to_json(dtype) != form:
        raise ReferencesError(f"not the form of a dtype of fixed size: {form!r}")
    return dtype


def _parse(form: JSON) -> np.dtype[Any]:
    if isinstance(form, list):
        return np.dtype([_parse_member(*member) for member in form])
    if isinstance(form, str) and _PLAIN.fullmatch(form):
        return np.dtype(form)
    raise ValueError("neither a dtype string nor a list of members")


def _parse_member(name: str, form: JSON, shape: JSON = ()) -> tuple[str, np.dtype[Any], tuple[int, ...]]:
    return name, _parse(form), tuple(shape)
