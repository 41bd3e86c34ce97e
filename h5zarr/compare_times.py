"""Times that a combined array tells in other units than one of its files (CF conventions 4.4)."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import zarr

from h5zarr.compare import Values

_TOLD_BY = ("units", "calendar")
_STANDARD = {"gregorian", "proleptic_gregorian", "standard", None}
_MASKING = ("_FillValue", "missing_value")
_NO_TIME = np.iinfo(np.int64).min
"""What stands for no time, as NumPy has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedTimes:
    """Decodes the times of both sides."""

    of_dataset: Mapping[str, Any]
    """Units and calendar in the file."""
    of_array: Mapping[str, Any]
    """Units and calendar of the array."""
    fills_of_dataset: Values
    """(n,) Numbers that stand for no time in the file."""
    fills_of_array: Values
    """(n,) Numbers that stand for no time in the array."""

    def expected(self, values: Values) -> Values:
        """Return times of the dataset (nanoseconds since 1970, or what `_number` tells)."""
        return _decoded(values, self.of_dataset, self.fills_of_dataset)

    def found(self, values: Values) -> Values:
        """Return times of the array (nanoseconds since 1970, or what `_number` tells)."""
        return _decoded(values, self.of_array, self.fills_of_array)


def times_of(root: zarr.Group, array: zarr.Array[Any], dataset: h5py.Dataset) -> DecodedTimes | None:
    """Return how to compare times, None where both sides tell them alike, or what they tell are no times.

    Bounds have the units of their coordinate variable where they have none (CF conventions 7.1).

    Parameters
    ----------
    root
        The root of the references.
    array, dataset
        What is compared.
    """
    parent = _coordinate_of_bounds(root, array)
    above = {} if parent is None else dict(parent.attrs)
    beside = None if parent is None else dataset.parent.get(parent.basename)
    of_array = _told(above | dict(array.attrs))
    of_dataset = _told({**(dict(beside.attrs) if beside is not None else {}), **dict(dataset.attrs)})
    # A file that has lost its units is compared as it is: xarray makes no times of it.
    both = (of_array, of_dataset)
    if of_array == of_dataset or not all(" since " in told.get("units", "") for told in both):
        return None
    return DecodedTimes(
        of_dataset=of_dataset,
        of_array=of_array,
        fills_of_dataset=_fills(dict(dataset.attrs)),
        fills_of_array=_fills(_masking(array)),
    )


def _coordinate_of_bounds(root: zarr.Group, array: zarr.Array[Any]) -> zarr.Array[Any] | None:
    group = root[array.path.rpartition("/")[0]] if "/" in array.path else root
    assert isinstance(group, zarr.Group)
    for _, other in group.arrays():
        if array.basename in (other.attrs.get("bounds"), other.attrs.get("climatology")):
            return other
    return None


def _told(attributes: Mapping[str, Any]) -> dict[str, str]:
    texts = {name: attributes[name] for name in _TOLD_BY if name in attributes}
    return {name: text.decode() if isinstance(text, bytes) else str(text) for name, text in texts.items()}


def _masking(array: zarr.Array[Any]) -> dict[str, Any]:
    """Return the attributes that tell what stands for no time; Zarr v2 has ``_FillValue`` elsewhere."""
    v2_fill = {"_FillValue": array.fill_value} if array.metadata.zarr_format == 2 else {}
    return v2_fill | {name: array.attrs[name] for name in _MASKING if name in array.attrs}


def _fills(attributes: Mapping[str, Any]) -> Values:
    """Return the numbers that stand for no time; what is no number stands for nothing."""
    return np.array([number for name in _MASKING for number in _numbers(attributes.get(name))])


def _numbers(value: Any) -> Iterator[Any]:
    values = _decoded_double(value) if isinstance(value, str) else np.asarray(value)
    if values.dtype.kind in "biuf":
        yield from values.reshape(-1).tolist()


def _decoded_double(text: str) -> Values:
    """Return the number of ``_FillValue`` of floats, which xarray has in base64."""
    try:
        return np.array(struct.unpack("<d", base64.standard_b64decode(text)))
    except (binascii.Error, struct.error, ValueError):
        return np.array(text)


def _decoded(values: Values, told: Mapping[str, Any], fills: Values) -> Values:
    decoded = np.full(values.shape, _NO_TIME)
    is_time = ~(np.isin(values, fills) | (values != values))
    if is_time.any():
        decoded[is_time] = _times(values[is_time], told)
    return decoded


def _times(values: Values, told: Mapping[str, Any]) -> Values:
    # Few combinations need it.
    import xarray as xr

    coder = xr.coders.CFDatetimeCoder(use_cftime=None if told.get("calendar") in _STANDARD else True)
    decoded = np.asarray(coder.decode(xr.Variable(("t",), values, dict(told))).values)
    if decoded.dtype.kind == "M":
        return decoded.astype("M8[ns]").view(np.int64)
    return np.array([_number(time) for time in decoded], np.int64)


def _number(time: Any) -> int:
    """Return a time of another calendar as a number that grows with it (microseconds)."""
    fields = (time.year, time.month, time.day, time.hour, time.minute, time.second, time.microsecond)
    number = 0
    for field, most in zip(fields, (1, 12, 31, 24, 60, 60, 10**6), strict=True):
        number = number * (most + 1) + field
    return number
