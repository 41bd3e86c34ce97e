"""Times of several files in the units of the first (CF conventions 4.4, "Time Coordinate").

xarray decodes and encodes them; it is imported only where units differ.
"""

from __future__ import annotations

import base64
import contextlib
import struct
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from h5zarr.combining.tiles import Piece
from h5zarr.errors import CombineError
from h5zarr.model import JSON, ArrayNode

Values = npt.NDArray[Any]

_STANDARD = "standard"
_SYNONYMS = {"gregorian": _STANDARD, "365_day": "noleap", "366_day": "all_leap"}
_ERRORS = (ArithmeticError, ImportError, TypeError, ValueError)
"""What xarray, pandas and cftime raise of times that they cannot convert."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeUnits:
    """What numbers of time count."""

    units: str
    """As the attribute says, such as ``days since 2000-01-01``."""
    calendar: str
    """As the attribute says; ``standard`` where it says nothing."""

    def __str__(self) -> str:
        return f"{self.units!r} ({self.calendar})"

    @property
    def attributes(self) -> dict[str, str]:
        """The attributes that say so."""
        return {"units": self.units, "calendar": self.calendar}

    def is_same(self, other: TimeUnits) -> bool:
        """Return whether the same numbers are the same times, as far as the attributes' texts tell."""
        return (self.units, _calendar(self)) == (other.units, _calendar(other))


def time_units_of(piece: Piece) -> TimeUnits | None:
    """Return the units of time that an array's values count, None where they count none.

    Bounds have those of their coordinate variable, where they do not say otherwise (CF 7.1).
    """
    own = piece.array.metadata["attributes"]
    parent = piece.tile.bounds_of.get(piece.array.path)
    above = {} if parent is None else parent.metadata["attributes"]
    return time_units({name: above[name] for name in ("units", "calendar") if name in above} | own)


def fill_numbers(array: ArrayNode) -> Values:
    """Return the numbers that stand for no time in an array, from ``_FillValue`` and ``missing_value``."""
    attributes = array.metadata["attributes"]
    given = [attributes[name] for name in ("_FillValue", "missing_value") if name in attributes]
    found = [_number(value) for values in given for value in _each(values)]
    return np.array([number for number in found if number is not None])


def _each(value: JSON) -> Sequence[JSON]:
    """Return the values of an attribute: ``missing_value`` may be several (CF 2.5.1)."""
    return value if isinstance(value, list) else [value]


def _number(value: JSON) -> float | None:
    """Return the number of an attribute; xarray has ``_FillValue`` of floats in base64."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError, struct.error):
            return float(struct.unpack("<d", base64.b64decode(value, validate=True))[0])
        return None
    return value if isinstance(value, int | float) else None


def decode_times(values: Values, units: TimeUnits) -> Values:
    """Return numbers of time as dates that can be compared with those of other units.

    Raises
    ------
    CombineError
        They are no dates; or xarray, or cftime that it needs for some calendars, is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(values, units)
    except _ERRORS as error:
        reason = " ".join(str(error).split())
        raise CombineError(f"numbers cannot be decoded as times in {units}: {reason}") from error


def encode_dates(dates: Values) -> tuple[Values, dict[str, JSON]]:
    """Return dates as numbers of time, and the attributes that tell what they count.

    Raises
    ------
    CombineError
        xarray is not installed, or cannot encode them.
    """
    try:
        from xarray import Variable
        from xarray.coders import CFDatetimeCoder

        encoded = CFDatetimeCoder().encode(Variable(("t",), dates))
    except _ERRORS as error:
        raise CombineError(f"dates cannot be encoded: {' '.join(str(error).split())}") from error
    return encoded.values, dict(encoded.attrs)


def time_units(attributes: Mapping[str, Any]) -> TimeUnits | None:
    """Return the units of time that attributes tell; None where they tell none."""
    units = attributes.get("units")
    if not isinstance(units, str) or " since " not in units:
        return None
    calendar = attributes.get("calendar", _STANDARD)
    return TimeUnits(units=units, calendar=calendar if isinstance(calendar, str) else repr(calendar))


def have_same_days(units: TimeUnits, to: TimeUnits) -> bool:
    """Return whether calendars are the same, at least from 1582 on; earlier dates are compared."""
    calendars = {_calendar(units), _calendar(to)}
    return len(calendars) == 1 or calendars == {_STANDARD, "proleptic_gregorian"}


def convert_times(values: Values, units: TimeUnits, to: TimeUnits, fills: Values) -> Values:
    """Return times in other units, of the same data type.

    Parameters
    ----------
    values
        Numbers of time.
    units, to
        What they count, and what the result counts.
    fills
        (n,) Numbers that stand for no time, which stay as they are, as NaN does.

    Raises
    ------
    CombineError
        A time has no exact number in the other units, or one that stands for no time, or calendars
        have different days; or xarray, or cftime that it needs for some calendars, is not installed.
    """
    if not have_same_days(units, to):
        raise CombineError(f"the calendars of times in {units} and {to} have different days")
    converted = values.copy()
    is_time = ~_stand_for_none(values, fills)
    try:
        converted[is_time] = _converted(values[is_time], units, to)
    except _ERRORS as error:
        reason = " ".join(str(error).split())
        raise CombineError(f"times in {units} cannot be had exactly in {to}: {reason}") from error
    _check_stay_times(values, converted, is_time, fills, units, to)
    return converted


def _stand_for_none(values: Values, fills: Values) -> Values:
    return np.asarray(np.isin(values, fills) | (values != values))


def _check_stay_times(
    values: Values, converted: Values, is_time: Values, fills: Values, units: TimeUnits, to: TimeUnits
) -> None:
    lost = is_time & _stand_for_none(converted, fills)
    if lost.any():
        raise CombineError(
            f"the time {values[lost][0]} in {units} would be {converted[lost][0]} in {to}, which stands for "
            "no time there (_FillValue, missing_value); write the file again in the units of the other, or "
            "leave the array out (exclude)"
        )


def _calendar(units: TimeUnits) -> str:
    name = units.calendar.lower()
    return _SYNONYMS.get(name, name)


def _converted(values: Values, units: TimeUnits, to: TimeUnits) -> Values:
    if not values.size:
        return values
    with warnings.catch_warnings():
        # xarray warns of what is checked here: numbers that are not exact, dates out of datetime64's range.
        warnings.simplefilter("ignore")
        times = _decode(values, units)
        numbers = _encode(times, values.dtype, to)
        again = _decode(numbers, to)
    if again.dtype != times.dtype or not (again == times).all():
        raise ValueError("the nearest numbers are other times")
    return numbers


def _decode(values: Values, units: TimeUnits) -> Values:
    from xarray import Variable
    from xarray.coders import CFDatetimeCoder

    return CFDatetimeCoder(time_unit="ns").decode(Variable(("t",), values, units.attributes)).values


def _encode(times: Values, dtype: np.dtype[Any], to: TimeUnits) -> Values:
    from xarray import Variable
    from xarray.coders import CFDatetimeCoder

    wide = np.dtype("int64" if dtype.kind in "iu" else "float64")
    encoding = {**to.attributes, "dtype": wide}
    encoded = CFDatetimeCoder().encode(Variable(("t",), times, {}, encoding))
    numbers = encoded.values
    if not (numbers == numbers.astype(dtype)).all():
        raise ValueError("they have no such numbers of that data type")
    return numbers.astype(dtype)
