"""What arrays of several files must have in common to become one (pure)."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from h5zarr.combining.tiles import Piece, names_of
from h5zarr.errors import CombineError
from h5zarr.model import JSON, ArrayNode

_MISSING = object()

_SAID_OTHERWISE = frozenset(
    {"shape", "attributes", "chunk_grid", "chunk_key_encoding", "codecs", "dimension_names", "fill_value"}
)
"""Keys of a metadata document that do not have to be the same, or are looked at for themselves."""

_MEANING = (
    *("units", "calendar", "scale_factor", "add_offset", "_FillValue", "missing_value"),
    *("valid_min", "valid_max", "valid_range", "_Unsigned", "_Encoding", "dtype", "positive"),
    *("flag_values", "flag_masks", "flag_meanings"),
)
"""Attributes that tell what stored numbers mean; others are those of the first file."""

_TIME = ("units", "calendar")


def check_meaning(pieces: Sequence[Piece], *, times_differ: bool = False) -> None:
    """Check that arrays can be joined: that the same stored numbers mean the same.

    Fill values count where chunks are absent, which read as them. Libraries choose their own where nobody
    asks for any.

    Parameters
    ----------
    pieces
        The arrays, all of one path.
    times_differ
        Whether units and calendars of time may differ, because values are converted.

    Raises
    ------
    CombineError
        They differ; it names two files, and what each has.
    """
    first, others = pieces[0], pieces[1:]
    for other in others:
        for difference in _differences(first.array, other.array, times_differ=times_differ):
            raise CombineError(f"{first.tile.name} and {other.tile.name} differ in {difference}")
    lacking = next((piece for piece in pieces if not _is_complete(piece.array)), None)
    if lacking is not None:
        _check_fill_values(pieces, lacking)


def _is_complete(array: ArrayNode) -> bool:
    """Return whether all chunks are there; shards may lack some in them."""
    manifest = array.manifest
    is_sharded = any(codec["name"] == "sharding_indexed" for codec in array.metadata["codecs"])
    present = len(manifest.grid_position) + len(manifest.inline)
    return not is_sharded and present == math.prod(manifest.grid_shape)


def _check_fill_values(pieces: Sequence[Piece], lacking: Piece) -> None:
    first = pieces[0]
    for other in pieces[1:]:
        found = _difference_of(first.array.path, first.array.metadata, other.array.metadata, ["fill_value"])
        if found is not None:
            raise CombineError(
                f"{first.tile.name} and {other.tile.name} differ in {found}, and {lacking.tile.name} lacks "
                "chunks, which read as its own; write it again with all its chunks, or with the fill value "
                "of the others, or exclude the array"
            )


def metadata_difference(first: ArrayNode, other: ArrayNode, *, with_attributes: bool) -> str | None:
    """Return what differs between two arrays besides how and where their chunks are stored.

    The fill value does not count: it shows in values.

    Parameters
    ----------
    first, other
        The arrays.
    with_attributes
        Whether all attributes count, or only those that tell what numbers mean.
    """
    if first.metadata["shape"] != other.metadata["shape"]:
        return f"the shape of {first.path}: {first.metadata['shape']} and {other.metadata['shape']}"
    found = next(_differences(first, other), None)
    if found is not None or not with_attributes:
        return found
    attributes = first.metadata["attributes"], other.metadata["attributes"]
    return _difference_of(first.path, *attributes, _all_keys(*attributes))


def same_json(first: JSON, other: JSON) -> bool:
    """Return whether JSON says the same; NaN equals NaN."""
    return bool(first == other) or _canonical(first) == _canonical(other)


def same_entry(key: str, first: JSON, other: JSON) -> bool:
    """Return whether two metadata documents say the same under a key.

    Fill values are the values of chunks that are not stored, of which -0.0 and 0.0 are two.
    """
    return same_json(first, other) and (key != "fill_value" or _signs(first) == _signs(other))


def _signs(value: JSON) -> JSON:
    """Return whether a number, or each of those of a list, is a negative zero."""
    if isinstance(value, list):
        return [_signs(one) for one in value]
    return isinstance(value, float) and value == 0 and math.copysign(1, value) < 0


def shown(value: JSON) -> str:
    """Return JSON as text for messages."""
    return "nothing" if value is _MISSING else json.dumps(value, ensure_ascii=False)


def _canonical(value: JSON) -> str:
    return "" if value is _MISSING else json.dumps(value, sort_keys=True)


def _all_keys(first: Mapping[str, JSON], other: Mapping[str, JSON]) -> list[str]:
    return list({**first, **other})


def _differences(first: ArrayNode, other: ArrayNode, *, times_differ: bool = False) -> Iterator[str]:
    """Yield what tells that the numbers of two arrays do not mean the same."""
    path, documents = first.path, (first.metadata, other.metadata)
    if names_of(first) != names_of(other):
        yield f"the dimensions of {path}: {shown(names_of(first))} and {shown(names_of(other))}"
    keys = [key for key in _all_keys(*documents) if key not in _SAID_OTHERWISE]
    found = _difference_of(path, *documents, keys)
    if found is not None:
        yield found
    attributes = first.metadata["attributes"], other.metadata["attributes"]
    meaning = [name for name in _MEANING if not (times_differ and name in _TIME)]
    found = _difference_of(path, *attributes, meaning, data_type=first.metadata["data_type"])
    if found is not None:
        yield found


def _difference_of(
    path: str,
    first: Mapping[str, JSON],
    other: Mapping[str, JSON],
    keys: Sequence[str],
    data_type: Any = None,
) -> str | None:
    if first == other and same_entry("fill_value", first.get("fill_value"), other.get("fill_value")):
        return None
    for key in keys:
        one, another = first.get(key, _MISSING), other.get(key, _MISSING)
        if not same_entry(key, one, another):
            texts = [_shown_attribute(key, value, data_type) for value in (one, another)]
            return f"{key} of {path}: {texts[0]} and {texts[1]}"
    return None


def _shown_attribute(name: str, value: JSON, data_type: Any) -> str:
    """Return an attribute as text; xarray has ``_FillValue`` of floats in base64."""
    if name == "_FillValue" and isinstance(value, str) and str(data_type).startswith("float"):
        try:
            return str(struct.unpack("<d", base64.b64decode(value, validate=True))[0])
        except (ValueError, struct.error):
            return shown(value)
    return shown(value)
