"""What is made sure of before a filter sees stored bytes that it would trust.

Several filters crash or hang on truncated or damaged chunks, and with them the process of whoever
reads. Where the layout of their output is simple, it is checked first. SZ, SZ3 and SPERR cannot be
helped this way.
"""

from __future__ import annotations

import bz2
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from h5zarr.errors import DamagedFileError
from h5zarr.model import Filter

ByteArray = npt.NDArray[np.uint8]

FLETCHER32 = 3
FLETCHER32_BYTE_LENGTH = 4
"""Bytes of the checksum; libhdf5 2.0.0 crashes on less."""
BZIP2 = 307

_BLOSC = 32001
_BLOSC_HEADER = 16
_BITSHUFFLE = 32008
_BITSHUFFLE_HEADER = 12
_BITSHUFFLE_ELEMENTS = 8


def undo_bzip2(stored: ByteArray) -> ByteArray:
    """Return what bzip2 compressed; its HDF5 plugin never returns from a truncated stream.

    Parameters
    ----------
    stored
        (stored bytes,) A bzip2 stream; what follows it is ignored, as the plugin does.

    Raises
    ------
    DamagedFileError
        The stream is no bzip2 stream, or incomplete.
    """
    stream = bz2.BZ2Decompressor()
    try:
        data = stream.decompress(stored.data)
    except OSError as error:
        raise DamagedFileError(
            f"chunk of {stored.nbytes} stored bytes: not a bzip2 stream: {error}"
        ) from error
    if not stream.eof:
        raise DamagedFileError(f"chunk of {stored.nbytes} stored bytes: bzip2 stream is incomplete")
    return np.frombuffer(data, np.uint8)


def check_stored_bytes(last: Filter, stored: ByteArray) -> None:
    """Raise where stored bytes cannot come from a filter whose decoder would trust them.

    Parameters
    ----------
    last
        The last filter that was applied, which is undone first.
    stored
        (stored bytes,) The chunk as it stands in the file.

    Raises
    ------
    DamagedFileError
        The lengths in the stored bytes point beyond their end.
    """
    is_sound = _IS_SOUND.get(last.identifier)
    if is_sound is not None and not is_sound(last, stored):
        raise DamagedFileError(
            f"chunk of {stored.nbytes} stored bytes: not what HDF5 filter {last.identifier} writes"
        )


def _is_sound_blosc(_stage: Filter, stored: ByteArray) -> bool:
    """Return whether a Blosc buffer is as long as its header tells ("Blosc Chunk Format", cbytes)."""
    return stored.nbytes >= _BLOSC_HEADER and _little_endian(stored, 12) <= stored.nbytes


def _little_endian(stored: ByteArray, byte_offset: int) -> int:
    """Return the 4-byte integer at an offset."""
    return int.from_bytes(stored[byte_offset : byte_offset + 4].tobytes(), "little")


_BITSHUFFLE_COMPRESSIONS = ((2,), (3,))
"""LZ4 and Zstandard; whatever else stands there, the plugin only shuffles."""


def _is_sound_bitshuffle(stage: Filter, stored: ByteArray) -> bool:
    """Return whether bitshuffle's compressed blocks lie within the stored bytes.

    A header tells the bytes of all elements (8 bytes, big-endian) and of a block (4 bytes); each block is
    preceded by its compressed length (4 bytes), elements beyond the last multiple of 8 follow as they are.
    """
    if stage.client_data[4:5] not in _BITSHUFFLE_COMPRESSIONS:
        return True
    element, header = stage.client_data[2], stored[:_BITSHUFFLE_HEADER].tobytes()
    block_length = int.from_bytes(header[8:], "big")
    if len(header) < _BITSHUFFLE_HEADER or not element or block_length < element * _BITSHUFFLE_ELEMENTS:
        return False
    byte_length = int.from_bytes(header[:8], "big")
    rest = byte_length % (element * _BITSHUFFLE_ELEMENTS)
    return _blocks_end(stored, -(-(byte_length - rest) // block_length)) + rest <= stored.nbytes


def _blocks_end(stored: ByteArray, count: int) -> int:
    """Return where so many of bitshuffle's blocks end, or somewhere beyond the stored bytes."""
    data, position = stored.tobytes(), _BITSHUFFLE_HEADER
    for _ in range(count):
        if position >= len(data):
            return len(data) + 1
        position += 4 + int.from_bytes(data[position : position + 4], "big")
    return position


_IS_SOUND: Mapping[int, Callable[[Filter, ByteArray], bool]] = {
    _BLOSC: _is_sound_blosc,
    _BITSHUFFLE: _is_sound_bitshuffle,
}
