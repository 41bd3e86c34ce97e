"""Times that a combined array tells in other units than one of its files (CF conventions 4.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import zarr

from h5zarr.compare import Values

_TOLD_BY = ("units", "calendar")
_STANDARD = {"gregorian", "proleptic_gregorian", "standard", None}


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedTimes:
    """Decodes the times of both sides."""

    of_dataset: Mapping[str, Any]
    """Units and calendar in the file."""
    of_array: Mapping[str, Any]
    """Units and calendar of the array."""

    def expected(self, values: Values) -> Values:
        """Return times of the dataset (nanoseconds since 1970; texts where the calendar is another one)."""
        return _decoded(values, self.of_dataset)

    def found(self, values: Values) -> Values:
        """Return times of the array (nanoseconds since 1970; texts where the calendar is another one)."""
        return _decoded(values, self.of_array)


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
    return DecodedTimes(of_dataset=of_dataset, of_array=of_array)


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


def _decoded(values: Values, told: Mapping[str, Any]) -> Values:
    # Few combinations need it.
    import xarray as xr

    coder = xr.coders.CFDatetimeCoder(use_cftime=None if told.get("calendar") in _STANDARD else True)
    variable = coder.decode(xr.Variable([f"d{axis}" for axis in range(values.ndim)], values, dict(told)))
    decoded = np.asarray(variable.values)
    if decoded.dtype.kind == "M":
        return decoded.astype("M8[ns]").view(np.int64)
    return np.array([_number(time) for time in decoded.reshape(-1)], np.int64).reshape(values.shape)


def _number(time: Any) -> int:
    """Return a time of another calendar as a number that grows with it (microseconds)."""
    fields = (time.year, time.month, time.day, time.hour, time.minute, time.second, time.microsecond)
    number = 0
    for field, most in zip(fields, (1, 12, 31, 24, 60, 60, 10**6), strict=True):
        number = number * (most + 1) + field
    return number
