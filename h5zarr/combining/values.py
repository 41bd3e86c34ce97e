"""Values of arrays, read through their references, compared, and put inline.

The arrays of many files that have one form are read as one Zarr array, with the file as its first axis.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.core.buffer.cpu import Buffer
from zarr.storage import MemoryStore

from h5zarr.combining.expand import SERIALIZERS, is_elementwise, with_leading_axis
from h5zarr.combining.reader import Reader
from h5zarr.datatypes import fill_value_json, zarr_data_type
from h5zarr.errors import CombineError, H5zarrError
from h5zarr.model import JSON, ArrayNode, Manifest, Shape
from h5zarr.prefetch.redact import describe, redact
from h5zarr.rectilinear_setting import reading_all_grids
from h5zarr.references.keys import DEFAULT, chunk_grid_shape

Values = npt.NDArray[Any]

_BATCH_ELEMENTS = 8 * 2**20
_CHUNK_BYTES = 4 * 2**20
_DECODING_ERRORS = (
    *(ArithmeticError, H5zarrError, LookupError, OSError, RuntimeError, TypeError, ValueError),
    *(struct.error, zlib.error),
)
"""What codecs raise of bytes that they did not write."""
_FORM_KEYS = ("shape", "data_type", "chunk_grid", "fill_value", "codecs")


def read_values(arrays: Sequence[ArrayNode], reader: Reader) -> Iterator[Values]:
    """Yield the values of each array, as zarr-python gives them.

    Parameters
    ----------
    arrays
        The arrays, in any files and of any form.
    reader
        Fetches their chunks.

    Raises
    ------
    CombineError
        Chunks cannot be decoded.
    SourceError
        A file cannot be read, or is not the one that was scanned.
    """
    for batch in _batches(arrays):
        yield from _decode(batch, reader.stored_chunks(batch))


def item_bytes(array: ArrayNode) -> int | None:
    """Return the bytes of one element in memory; None where elements have no fixed size."""
    document = _bare_document(array.metadata)
    if is_elementwise(document):  # zarr-python 3.1 has no rectilinear grids
        grid = {"name": "regular", "configuration": {"chunk_shape": [1]}}
        document |= {"shape": [1], "chunk_grid": grid}
    dtype = _opened(document, {}).dtype
    return None if dtype.kind in "OT" else int(dtype.itemsize)


def inline_array(like: ArrayNode, values: Values, *, byte_length: int) -> ArrayNode:
    """Return an array of other values, all of which stand in the manifest.

    Parameters
    ----------
    like
        An array of the same data type, whose other metadata the result has.
    values
        (shape) The values.
    byte_length
        Bytes that they take, by which they are divided into chunks.

    Raises
    ------
    CombineError
        Its codecs make bytes of whole chunks in a way of their own.
    """
    metadata = {
        **like.metadata,
        "shape": list(values.shape),
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": list(_chunk_shape(values.shape, byte_length))},
        },
        "codecs": [_serializer(like)],
    }
    grid = chunk_grid_shape(metadata)
    stored = _encode(metadata, values)
    positions = DEFAULT.positions("", grid, list(stored))
    empty = np.zeros(0, np.uint64)
    manifest = Manifest(
        grid_shape=grid,
        locations=(),
        grid_position=empty,
        byte_offset=empty,
        byte_length=empty,
        inline=dict(zip(positions.tolist(), stored.values(), strict=True)),
    )
    return replace(like, metadata=metadata, manifest=manifest)


def labels(name: str, values: Values, attributes: Mapping[str, JSON]) -> list[ArrayNode]:
    """Return the coordinate variable of a new dimension for each of its places, inline.

    Parameters
    ----------
    name
        Name of the dimension.
    values
        (n,) Numbers, booleans or texts.
    attributes
        Its attributes.

    Raises
    ------
    CombineError
        The values are neither.
    """
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [1],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1]}},
        **_data_type(values),
        "attributes": dict(attributes),
        "dimension_names": [name],
    }
    metadata = DEFAULT.in_metadata(metadata)
    stored = _encode({**metadata, "shape": list(values.shape)}, values)
    empty = np.zeros(0, np.uint64)
    return [
        ArrayNode(
            path=f"/{name}",
            metadata=metadata,
            manifest=Manifest(
                grid_shape=(1,),
                locations=(),
                grid_position=empty,
                byte_offset=empty,
                byte_length=empty,
                inline={0: stored[f"c/{number}"]},
            ),
        )
        for number in range(len(values))
    ]


def _data_type(values: Values) -> dict[str, JSON]:
    """Return what a metadata document tells of the elements of labels."""
    if values.dtype.kind in "OTU" and all(isinstance(value, str) for value in values.tolist()):
        return {
            "data_type": "string",
            "fill_value": "",
            "codecs": [{"name": "vlen-utf8", "configuration": {}}],
        }
    if values.ndim != 1 or values.dtype.kind not in "biuf":
        raise CombineError("values of a new dimension must be numbers, booleans, texts or dates")
    codec = {"name": "bytes", "configuration": {"endian": "little"}}
    fill_value = fill_value_json(None, values.dtype)
    return {"data_type": zarr_data_type(values.dtype), "fill_value": fill_value, "codecs": [codec]}


def same_values(first: Values, other: Values) -> bool:
    """Return whether two arrays of one data type and shape hold the same values, bit for bit."""
    if first.shape != other.shape:
        return False
    if first.dtype.kind == "T":
        return bool((first == other).all())
    if first.dtype.hasobject:
        return all(map(_same_object, first.reshape(-1), other.reshape(-1)))
    return np.ascontiguousarray(first).tobytes() == np.ascontiguousarray(other).tobytes()


def _same_object(first: Any, other: Any) -> bool:
    if isinstance(first, np.ndarray):
        return first.dtype == other.dtype and same_values(first, other)
    return bool(first == other)


# Reading ---------------------------------------------------------------------------------


def _batches(arrays: Sequence[ArrayNode]) -> Iterator[Sequence[ArrayNode]]:
    """Yield arrays, in their order, few enough at a time to be in memory together."""
    start = elements = 0
    for number, array in enumerate(arrays):
        elements += math.prod(array.metadata["shape"])
        if elements >= _BATCH_ELEMENTS:
            yield arrays[start : number + 1]
            start, elements = number + 1, 0
    yield arrays[start:]


def _decode(arrays: Sequence[ArrayNode], stored: Sequence[Mapping[int, bytes]]) -> Iterator[Values]:
    """Yield the values of each array; those of one form are read together."""
    forms: dict[str, list[int]] = defaultdict(list)
    for number, array in enumerate(arrays):
        forms[_form(array, number)].append(number)
    values: dict[int, Values] = {}
    for numbers in forms.values():
        first = arrays[numbers[0]]
        try:
            together = _read_together(first, [stored[number] for number in numbers])
        except _DECODING_ERRORS as error:
            places = ", ".join(map(redact, first.manifest.locations)) or "the references"
            raise CombineError(
                f"{first.path} of {places}, or of another file like it, cannot be decoded: {describe(error)}"
            ) from error
        values |= zip(numbers, together, strict=True)
    yield from (values[number] for number in range(len(arrays)))


def _form(array: ArrayNode, number: int) -> str:
    """Return what arrays have in common that can be read as one."""
    form = {key: array.metadata[key] for key in _FORM_KEYS}
    alone = {} if is_elementwise(array.metadata) else {"alone": number}
    return json.dumps(form | alone, sort_keys=True)


def _read_together(like: ArrayNode, stored: Sequence[Mapping[int, bytes]]) -> Sequence[Values]:
    """Return the values of arrays of one form: their chunks are those of an array with one more axis."""
    grid = chunk_grid_shape(like.metadata)
    document = _bare_document(like.metadata)
    if not is_elementwise(like.metadata):
        return [_read(document, _keyed(stored[0], grid, "c"))]
    count = len(stored)
    if _is_uncompressed(document) and _have_same_lengths(stored):
        # Without compression, the chunks one after the other are one chunk of all files.
        together = {cell: b"".join([own[cell] for own in stored]) for cell in stored[0]}
        return list(_read(with_leading_axis(document, count, count), _keyed(together, grid, "c/0")))
    chunks: dict[str, bytes] = {}
    for number, own in enumerate(stored):
        chunks |= _keyed(own, grid, f"c/{number}")
    return list(_read(with_leading_axis(document, count), chunks))


def _have_same_lengths(stored: Sequence[Mapping[int, bytes]]) -> bool:
    """Return whether arrays have the same chunks, each as long as the others."""
    lengths = [{cell: len(chunk) for cell, chunk in own.items()} for own in stored]
    return all(own == lengths[0] for own in lengths)


def _is_uncompressed(document: Mapping[str, JSON]) -> bool:
    return [codec["name"] for codec in document["codecs"]] == ["bytes"]


def _bare_document(metadata: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return a metadata document with nothing but what reading takes."""
    document = {key: metadata[key] for key in _FORM_KEYS}
    return {"zarr_format": 3, "node_type": "array", "attributes": {}, **DEFAULT.in_metadata(document)}


def _keyed(stored: Mapping[int, bytes], grid: Shape, prefix: str) -> dict[str, bytes]:
    """Return stored chunks by their store keys."""
    keys = DEFAULT.keys("", grid, np.fromiter(stored, np.uint64, len(stored)))
    return dict(zip((f"{prefix}{key[1:]}" for key in keys), stored.values(), strict=True))


def _read(document: Mapping[str, JSON], chunks: Mapping[str, bytes]) -> Values:
    array = _opened(document, chunks)
    return np.asarray(array[...]).reshape(document["shape"])


def _opened(document: Mapping[str, JSON], chunks: Mapping[str, bytes]) -> zarr.Array[Any]:
    """Open an array in memory."""
    with reading_all_grids():
        return zarr.open_array(MemoryStore(_content(document, chunks)), mode="r", zarr_format=3)


def _content(document: Mapping[str, JSON], chunks: Mapping[str, bytes]) -> dict[str, Any]:
    """Return what a store in memory holds, which adds to it what is written."""
    content = {"zarr.json": json.dumps(document).encode(), **chunks}
    return {key: Buffer.from_bytes(stored) for key, stored in content.items()}


# Writing ---------------------------------------------------------------------------------


def _serializer(like: ArrayNode) -> JSON:
    """Return the codec that makes bytes of values; what compresses them is left out."""
    for codec in like.metadata["codecs"]:
        if codec["name"] in SERIALIZERS:
            return codec
    names = ", ".join(codec["name"] for codec in like.metadata["codecs"])
    raise CombineError(f"{like.path}: values cannot be put into the references with the codecs {names}")


def _chunk_shape(shape: Shape, byte_length: int) -> Shape:
    """Return a chunk shape by which chunks have a few MiB (elements)."""
    rows = shape[0] * _CHUNK_BYTES // max(byte_length, 1)
    return (max(1, min(shape[0], rows)), *(max(extent, 1) for extent in shape[1:]))


def _encode(metadata: Mapping[str, JSON], values: Values) -> dict[str, bytes]:
    """Return the chunks of an array by store key."""
    content = _content(_bare_document(metadata), {})
    with zarr.config.set({"array.write_empty_chunks": True}):
        zarr.open_array(MemoryStore(content), mode="r+", zarr_format=3)[...] = values
    return {key: chunk.to_bytes() for key, chunk in content.items() if key != "zarr.json"}
