"""Values that go into the manifest themselves, encoded as Zarr chunks (pure).

These are the elements that HDF5 keeps on a heap: strings and sequences of variable length, and
references. Stored chunks hold only addresses of them, which no Zarr codec can follow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from h5zarr.attributes import json_value
from h5zarr.datatypes import fill_value_json, zarr_data_type
from h5zarr.dtype_json import SEQUENCE_TYPE, sequence_data_type
from h5zarr.errors import UntranslatableError
from h5zarr.model import JSON, Datatype, DatatypeClass, Shape
from h5zarr.sequences import empty_sequence, encode_sequences

Values = npt.NDArray[Any]

_CHUNK_BYTES = 4 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class _Form:
    """What elements become in Zarr."""

    data_type: JSON
    """``data_type`` of the metadata document."""
    fill_value: JSON
    """``fill_value`` of the metadata document."""
    codecs: list[JSON]
    """``codecs`` of the metadata document."""
    absent: Any
    """What stands in a chunk for elements outside of the array."""
    item_byte_length: int
    """Bytes of what the length of an object counts, or of an element that is none."""
    encode: Callable[[Values], bytes]
    """Returns the bytes of a chunk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InlineArray:
    """An array all of whose chunks are given."""

    shape: Shape
    """Shape in elements, trailing dimensions of array datatypes included."""
    chunk_shape: Shape
    """Shape of a chunk in elements."""
    data_type: JSON
    """``data_type`` of the metadata document."""
    fill_value: JSON
    """``fill_value`` of the metadata document."""
    codecs: list[JSON]
    """``codecs`` of the metadata document."""
    chunks: dict[int, bytes]
    """Encoded chunks by grid position."""


def inline_array(values: Values, datatype: Datatype) -> InlineArray:
    """Return values of a datatype with heap data as a Zarr array.

    Parameters
    ----------
    values
        All values as scanned: strings as bytes, references as paths, sequences as arrays.
    datatype
        The datatype in the file.

    Raises
    ------
    UntranslatableError
        A sequence holds values that have no form in JSON.
    """
    if datatype.datatype_class is DatatypeClass.ARRAY:
        assert datatype.base is not None
        return inline_array(values, datatype.base)
    if datatype.datatype_class is DatatypeClass.COMPOUND:
        packed = _pack_compound(values, datatype)
        return _array(packed, _fixed(packed.dtype))
    base = _sequence_base(values, datatype)
    if base is not None:
        return _array(values, _sequences(base))
    texts = _texts(values, datatype)
    return _array(
        texts, _text("string" if all(map(_is_utf8, texts.reshape(-1))) else "variable_length_bytes")
    )


def _sequence_base(values: Values, datatype: Datatype) -> np.dtype[Any] | None:
    """Return the packed dtype of the items of sequences; None where they have no fixed size."""
    if datatype.datatype_class is not DatatypeClass.VLEN or datatype.base is None or datatype.base.on_heap:
        return None
    # h5py notes it in the metadata: without elements, nothing else tells it
    noted: Mapping[Any, Any] = values.dtype.metadata or {}
    return _little(np.dtype(noted["vlen"])) if "vlen" in noted else None


def _texts(values: Values, datatype: Datatype) -> Values:
    """Return (shape) bytes: text, paths of references, or sequences as JSON."""
    return _map(values, _TO_TEXT[datatype.datatype_class])


def _sequence_text(sequence: Any) -> bytes:
    return json.dumps(json_value(np.asarray(sequence)), ensure_ascii=False, separators=(",", ":")).encode()


def _string_text(text: Any) -> bytes:
    # h5py leaves 0 where a string was never written
    return text if isinstance(text, bytes) else b""


def _reference_text(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


_TO_TEXT: dict[DatatypeClass, Callable[[Any], bytes]] = {
    DatatypeClass.STRING: _string_text,
    DatatypeClass.REFERENCE: _reference_text,
    DatatypeClass.VLEN: _sequence_text,
}


def _map(values: Values, convert: Callable[[Any], bytes]) -> Values:
    texts = np.empty(values.shape, object)
    flat = texts.reshape(-1)
    for position, element in enumerate(values.reshape(-1)):
        flat[position] = convert(element)
    return texts


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _pack_compound(values: Values, datatype: Datatype) -> Values:
    """Return a structured array without heap data: strings as long as the longest one."""
    packed = {member.name: _pack(values[member.name], member.datatype) for member in datatype.members}
    rank = values.ndim
    dtype = np.dtype([(name, member.dtype, member.shape[rank:]) for name, member in packed.items()])
    records = np.zeros(values.shape, dtype)
    for name, member in packed.items():
        records[name] = member
    return records


def _pack(values: Values, datatype: Datatype) -> Values:
    if not datatype.on_heap:
        return values.astype(_little(values.dtype), copy=False)
    if datatype.datatype_class is DatatypeClass.COMPOUND:
        return _pack_compound(values, datatype)
    if datatype.datatype_class is DatatypeClass.ARRAY:
        assert datatype.base is not None
        return _pack(values, datatype.base)
    texts = _texts(values, datatype)
    if datatype.datatype_class is DatatypeClass.VLEN:
        longest = max((len(text.decode()) for text in texts.reshape(-1)), default=1)
        return np.array([text.decode() for text in texts.reshape(-1)], f"<U{longest}").reshape(texts.shape)
    if any(text.endswith(b"\0") for text in texts.reshape(-1)):
        raise UntranslatableError(
            "a variable-length string in a compound that ends in a NUL, which fixed-length ones cannot keep",
            "read it with h5py",
        )
    longest = max((len(text) for text in texts.reshape(-1)), default=1)
    return texts.astype(f"S{max(longest, 1)}")


def _little(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.names is not None:
        return np.dtype([(name, _little(dtype[name])) for name in dtype.names])
    if dtype.subdtype is not None:
        return np.dtype((_little(dtype.base), dtype.shape))
    return np.dtype(dtype.str.replace(">", "<"))


def _array(values: Values, form: _Form) -> InlineArray:
    rows = _rows_per_chunk(values, form)
    chunks: dict[int, bytes] = {}
    if values.size:
        starts = range(0, values.shape[0], rows) if values.ndim else (0,)
        for position, start in enumerate(starts):
            block = values[start : start + rows] if values.ndim else values
            chunks[position] = form.encode(_whole_chunk(block, rows, form))
    return InlineArray(
        shape=values.shape,
        chunk_shape=(rows, *(max(extent, 1) for extent in values.shape[1:])) if values.ndim else (),
        data_type=form.data_type,
        fill_value=form.fill_value,
        codecs=form.codecs,
        chunks=chunks,
    )


def _rows_per_chunk(values: Values, form: _Form) -> int:
    """Return the extent of a chunk along the first dimension, so that chunks stay a few MiB."""
    if values.ndim == 0 or values.size == 0:
        return max(values.shape[0], 1) if values.ndim else 1
    items = sum(map(len, values.reshape(-1))) if values.dtype == object else values.size
    byte_length = max(items * form.item_byte_length, 1)
    rows: int = values.shape[0]
    return max(1, min(rows, rows * _CHUNK_BYTES // byte_length))


def _whole_chunk(block: Values, rows: int, form: _Form) -> Values:
    """Fill the last chunk up to its full shape."""
    if block.ndim == 0 or len(block) == rows:
        return block
    whole = np.empty((rows, *block.shape[1:]), block.dtype)
    whole[len(block) :] = form.absent
    whole[: len(block)] = block
    return whole


def _fixed(dtype: np.dtype[Any]) -> _Form:
    return _Form(
        data_type=zarr_data_type(dtype),
        fill_value=fill_value_json(None, dtype),
        codecs=[{"name": "bytes", "configuration": {"endian": "little"}}],
        absent=np.zeros((), dtype),
        item_byte_length=dtype.itemsize,
        encode=lambda block: block.tobytes(),
    )


def _sequences(base: np.dtype[Any]) -> _Form:
    return _Form(
        data_type=sequence_data_type(base),
        fill_value=[],
        codecs=[{"name": SEQUENCE_TYPE}],
        absent=empty_sequence(base),
        item_byte_length=base.itemsize,
        encode=lambda block: encode_sequences(block, base),
    )


def _text(data_type: str) -> _Form:
    codec = "vlen-utf8" if data_type == "string" else "vlen-bytes"
    return _Form(
        data_type=data_type,
        fill_value="",
        codecs=[{"name": codec, "configuration": {}}],
        absent=b"",
        item_byte_length=1,
        encode=_encode_texts,
    )


def _encode_texts(block: Values) -> bytes:
    # Both codecs store the same bytes: numcodecs is imported only where there are such values.
    from numcodecs.vlen import VLenBytes

    return bytes(VLenBytes().encode(np.ascontiguousarray(block).reshape(-1)))
