"""The Zarr codec ``h5zarr.sequence``: chunks of data type ``h5zarr.sequence`` as bytes.

`h5zarr.sequences` tells what the bytes are; the data type tells the base. zarr finds the codec by the
entry point group ``zarr.codecs``::

    {"name": "h5zarr.sequence"}
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer

from h5zarr.dtype_json import SEQUENCE_TYPE
from h5zarr.errors import ReferencesError
from h5zarr.sequences import decode_sequences, encode_sequences
from h5zarr.zarr_types import SequenceType


class _Sequences(np.ndarray[Any, Any]):
    """Objects, each an array, that zarr puts into its output as they are.

    NumPy stores an array of no dimensions, assigned to one place of objects, as an object. So a single
    sequence is taken out of several as itself, or it would be nested. A chunk without dimensions is
    nested on purpose: zarr takes what it returns out of its output, which then is such an array again,
    and not the sequence, whose shape is not that of the Zarr array: xarray fails with it.
    """

    def __getitem__(self, key: Any) -> Any:
        if self.ndim == 0:
            return np.asarray(super().__getitem__(...))
        taken = super().__getitem__(key)
        return taken.item() if isinstance(taken, _Sequences) and taken.ndim == 0 else taken


@dataclass(frozen=True)
class SequenceCodec(ArrayBytesCodec):
    """Decodes and encodes sequences of variable length; it has no parameters."""

    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Return the codec of an entry of ``codecs`` in a metadata document (Zarr v3 core, "codecs").

        Raises
        ------
        ReferencesError
            The entry is not one of this codec.
        """
        if data.get("name") != SEQUENCE_TYPE or data.get("configuration"):
            raise ReferencesError(f"not a codec {SEQUENCE_TYPE}, which has no configuration: {data!r}")
        return cls()

    def to_dict(self) -> dict[str, Any]:
        """Return the codec's entry in a metadata document."""
        return {"name": SEQUENCE_TYPE}

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Raise NotImplementedError, which tells zarr that the size differs from chunk to chunk."""
        raise NotImplementedError

    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        stored = chunk_data.as_numpy_array().view(np.uint8)
        sequences = decode_sequences(stored, _base(chunk_spec), math.prod(chunk_spec.shape))
        shaped = sequences.reshape(chunk_spec.shape).view(_Sequences)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(shaped)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return self._decode_sync(chunk_data, chunk_spec)

    def _encode_sync(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        encoded = encode_sequences(chunk_data.as_numpy_array(), _base(chunk_spec))
        return chunk_spec.prototype.buffer.from_bytes(encoded)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        return self._encode_sync(chunk_data, chunk_spec)


def _base(chunk_spec: ArraySpec) -> np.dtype[Any]:
    if not isinstance(chunk_spec.dtype, SequenceType):
        raise ReferencesError(f"codec {SEQUENCE_TYPE} is for that data type, not {chunk_spec.dtype}")
    return chunk_spec.dtype.base
