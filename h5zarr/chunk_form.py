"""How the chunks of one HDF5 dataset are stored: the configuration of codec ``h5zarr.hdf5``.

The configuration is JSON for people to read::

    {"filters": [{"id": 2, "flags": 1, "name": "shuffle", "client_data": [4]}],
     "filter_mask": 1,
     "filter_mask_by_length": {"4000": 0},
     "chunk_byte_length": 4000,
     "stored_type": "<base64 of H5Tencode>",
     "memory_type": "<base64 of H5Tencode>"}

Everything but ``filters`` and ``chunk_byte_length`` is left out where it says nothing.
"""

from __future__ import annotations

import base64
import binascii
import bisect
from collections.abc import Mapping
from dataclasses import dataclass

from h5zarr.errors import ReferencesError
from h5zarr.model import JSON, Filter

_FILTER_KEYS = {"id", "flags", "name", "client_data"}
_REQUIRED_KEYS = {"filters", "chunk_byte_length"}
_OPTIONAL_KEYS = {"filter_mask", "filter_mask_by_length", "stored_type", "memory_type"}
_UINT16_MAX = 0xFFFF
_UINT32_MAX = 0xFFFFFFFF
_UINT64_MAX = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkForm:
    """What turns stored chunks of a dataset into the values that h5py reads."""

    chunk_byte_length: int
    """Bytes of one whole chunk in the file's datatype: what the filter pipeline gives."""
    filters: tuple[Filter, ...] = ()
    """The filter pipeline, in the order of writing."""
    filter_mask: int = 0
    """Filter mask of every chunk that ``mask_by_byte_length`` does not name; bit i: filter i skipped."""
    mask_by_byte_length: tuple[tuple[int, int], ...] = ()
    """Pairs of a stored length (bytes) and the filter mask of chunks of that length, by length."""
    stored_type: bytes | None = None
    """The file's datatype (`H5Tencode`); None: elements are not converted."""
    memory_type: bytes | None = None
    """The datatype that elements are converted to (`H5Tencode`); None: they are not."""

    def __post_init__(self) -> None:
        if (self.stored_type is None) != (self.memory_type is None):
            raise ReferencesError("stored_type and memory_type go together")
        pairs = tuple(sorted(self.mask_by_byte_length))
        object.__setattr__(self, "mask_by_byte_length", pairs)

    @property
    def mask_of_unfiltered(self) -> int:
        """The filter mask of a chunk that no filter was applied to."""
        return (1 << len(self.filters)) - 1

    def mask_of(self, byte_length: int) -> int:
        """Return the filter mask of a chunk of a stored length (bytes)."""
        pairs = self.mask_by_byte_length
        position = bisect.bisect_left(pairs, (byte_length, 0))
        if position < len(pairs) and pairs[position][0] == byte_length:
            return pairs[position][1]
        return self.filter_mask

    def applied_filters(self, filter_mask: int) -> tuple[Filter, ...]:
        """Return the filters that a chunk with a filter mask went through, in the order of writing."""
        if filter_mask == 0:
            return self.filters
        return tuple(stage for bit, stage in enumerate(self.filters) if not filter_mask >> bit & 1)

    def to_configuration(self) -> dict[str, JSON]:
        """Return the canonical configuration: equal forms give equal JSON."""
        configuration: dict[str, JSON] = {"filters": [_filter_to_json(stage) for stage in self.filters]}
        if self.filter_mask:
            configuration["filter_mask"] = self.filter_mask
        if self.mask_by_byte_length:
            masks = {str(byte_length): mask for byte_length, mask in self.mask_by_byte_length}
            configuration["filter_mask_by_length"] = masks
        configuration["chunk_byte_length"] = self.chunk_byte_length
        if self.stored_type is not None and self.memory_type is not None:
            configuration["stored_type"] = base64.b64encode(self.stored_type).decode()
            configuration["memory_type"] = base64.b64encode(self.memory_type).decode()
        return configuration

    @classmethod
    def from_configuration(cls, configuration: Mapping[str, JSON]) -> ChunkForm:
        """Return the form that a configuration describes.

        Raises
        ------
        ReferencesError
            A key is missing or unknown, or a value is not what it should be.
        """
        _check_keys(configuration, _REQUIRED_KEYS, _OPTIONAL_KEYS)
        return cls(
            chunk_byte_length=_integer(configuration, "chunk_byte_length", _UINT64_MAX, minimum=1),
            filters=tuple(_filter_from_json(entry) for entry in _list(configuration, "filters")),
            filter_mask=_integer({"filter_mask": 0, **configuration}, "filter_mask", _UINT32_MAX),
            mask_by_byte_length=_masks(configuration.get("filter_mask_by_length", {})),
            stored_type=_base64(configuration, "stored_type"),
            memory_type=_base64(configuration, "memory_type"),
        )


def _filter_to_json(stage: Filter) -> dict[str, JSON]:
    """Return one entry of ``filters``."""
    return {
        "id": stage.identifier,
        "flags": stage.flags,
        "name": stage.name,
        "client_data": list(stage.client_data),
    }


def _filter_from_json(entry: JSON) -> Filter:
    """Return the filter of one entry of ``filters``."""
    _check_keys(entry, _FILTER_KEYS, set())
    client_data = _list(entry, "client_data")
    if not isinstance(entry["name"], str):
        raise ReferencesError(f"name of a filter: not a string: {entry['name']!r}")
    return Filter(
        identifier=_integer(entry, "id", _UINT16_MAX),
        name=entry["name"],
        flags=_integer(entry, "flags", _UINT16_MAX),
        client_data=tuple(
            _integer({"client_data": item}, "client_data", _UINT32_MAX) for item in client_data
        ),
    )


def _check_keys(entry: JSON, required: set[str], optional: set[str]) -> None:
    """Raise where an object lacks a key or has one that nobody here understands."""
    if not isinstance(entry, Mapping):
        raise ReferencesError(f"h5zarr.hdf5: not an object: {entry!r}")
    if missing := required - entry.keys():
        raise ReferencesError(f"h5zarr.hdf5: {sorted(missing)} missing in its configuration")
    if unknown := entry.keys() - required - optional:
        raise ReferencesError(f"h5zarr.hdf5: {sorted(unknown)} unknown in its configuration")


def _integer(entry: Mapping[str, JSON], key: str, maximum: int, *, minimum: int = 0) -> int:
    """Return an integer of an object, which must lie between the limits."""
    value = entry[key]
    if type(value) is not int or not minimum <= value <= maximum:
        raise ReferencesError(f"h5zarr.hdf5: {key} is not an integer from {minimum} to {maximum}: {value!r}")
    return value


def _list(entry: Mapping[str, JSON], key: str) -> list[JSON]:
    """Return a list of an object."""
    value = entry[key]
    if not isinstance(value, list | tuple):
        raise ReferencesError(f"h5zarr.hdf5: {key} is not a list: {value!r}")
    return list(value)


def _masks(entry: JSON) -> tuple[tuple[int, int], ...]:
    """Return the pairs of ``filter_mask_by_length``."""
    if not isinstance(entry, Mapping) or not all(key.isdecimal() for key in entry):
        raise ReferencesError(f"h5zarr.hdf5: filter_mask_by_length does not map byte lengths: {entry!r}")
    return tuple((int(key), _integer(entry, key, _UINT32_MAX)) for key in entry)


def _base64(configuration: Mapping[str, JSON], key: str) -> bytes | None:
    """Return the bytes of a base64 string; None where there is none."""
    text = configuration.get(key)
    if text is None:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise ReferencesError(f"h5zarr.hdf5: {key} is not base64: {text!r}") from error
