"""The Zarr codec ``h5zarr.hdf5``: any HDF5 filter pipeline, decoded by libhdf5 itself.

It stands after the ``bytes`` codec, registered by the entry point group ``zarr.codecs``::

    [{"name": "bytes", "configuration": {"endian": "little"}},
     {"name": "h5zarr.hdf5", "configuration": {...}}]

`h5zarr.chunk_form` tells what is in the configuration.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Self

from h5py._objects import phil
from zarr.abc.codec import BytesBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer

from h5zarr.chunk_form import ChunkForm
from h5zarr.errors import ReferencesError
from h5zarr.file_image import decode_chunk

CODEC_NAME = "h5zarr.hdf5"
_LARGEST_DECODED_IN_LOOP = 1 << 16


@dataclass(frozen=True)
class HDF5Codec(BytesBytesCodec):
    """Decodes stored HDF5 chunks; encodes nothing, since references are read-only."""

    is_fixed_size = False

    form: ChunkForm
    """How the chunks are stored."""

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Return the codec of an entry of ``codecs`` in a metadata document (Zarr v3 core, "codecs").

        Raises
        ------
        ReferencesError
            The entry is not one of this codec, or its configuration cannot be understood.
        """
        if data.get("name") != CODEC_NAME:
            raise ReferencesError(f"not a codec {CODEC_NAME}: {data.get('name')!r}")
        return cls(form=ChunkForm.from_configuration(data.get("configuration", {})))

    def to_dict(self) -> dict[str, Any]:
        """Return the codec's entry in a metadata document."""
        return {"name": CODEC_NAME, "configuration": self.form.to_configuration()}

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Raise NotImplementedError, which tells zarr that the size differs from chunk to chunk."""
        raise NotImplementedError

    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer:
        values = decode_chunk(self.form, chunk_data.as_numpy_array())
        return chunk_spec.prototype.buffer.from_bytes(values.data)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer:
        # Handing a small chunk to a thread takes several times as long as decoding it. The event loop
        # must not wait for h5py's lock, though, which another thread may hold while it fetches a file.
        if self.form.chunk_byte_length <= _LARGEST_DECODED_IN_LOOP and phil.acquire(False):
            try:
                return self._decode_sync(chunk_data, chunk_spec)
            finally:
                phil.release()
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    def _encode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer | None:
        raise NotImplementedError(f"codec {CODEC_NAME} only reads; write a new array with other codecs")

    async def _encode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer | None:
        return self._encode_sync(chunk_data, chunk_spec)
