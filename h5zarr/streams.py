"""Bytes opened with libhdf5: whether they are an HDF5 file, and why they could not be read."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import IO, Any

import h5py

from h5zarr.errors import DamagedFileError, NotHDF5Error, SourceError
from h5zarr.prefetch import one_line

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_LARGEST_USER_BLOCK = 2**40


def check_signature(stream: IO[bytes], name: str) -> None:
    """Look for the signature at 0, 512, 1024, … (HDF5 File Format Specification, II.A).

    Raises
    ------
    NotHDF5Error
        There is none.
    """
    byte_length = stream.seek(0, io.SEEK_END)
    if byte_length == 0:
        raise empty_file(name)
    at = 0
    while at < min(byte_length, _LARGEST_USER_BLOCK):
        stream.seek(at)
        if stream.read(len(SIGNATURE)) == SIGNATURE:
            return
        at = at * 2 or 512
    raise NotHDF5Error(f"{name}: is not an HDF5 file; h5zarr reads HDF5 and netCDF-4 only")


def empty_file(name: str) -> NotHDF5Error:
    """Return the error of a file without content."""
    return NotHDF5Error(f"{name}: is empty; check how it was written or copied")


def open_stream(stream: IO[bytes], name: str, stack: contextlib.ExitStack) -> h5py.File:
    """Open a stream until the stack is left.

    Raises
    ------
    SourceError
        It cannot be read, then or later.
    """
    watched = stack.enter_context(_watch(stream, name))
    check_signature(watched, name)
    return stack.enter_context(open_hdf5(watched, name))


def open_hdf5(target: Any, name: str) -> h5py.File:
    """Open a path or a file-like object with libhdf5.

    Raises
    ------
    DamagedFileError
        libhdf5 cannot open it.
    """
    try:
        return h5py.File(target, "r")
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise DamagedFileError(f"{name}: libhdf5 cannot open it: {one_line(error)}") from error


@contextlib.contextmanager
def _watch(stream: IO[bytes], name: str) -> Iterator[Any]:
    """Raise why reading failed: libhdf5 passes on only that it did, and a damaged file looks the same."""
    watched = _WatchedStream(stream, name)
    try:
        yield watched
    # Whatever libhdf5 made of the failed reading, the stream's own error is raised instead, below.
    except Exception:
        if watched.failure is None:
            raise
    if isinstance(watched.failure, SourceError):
        raise watched.failure
    if watched.failure is not None:
        raise SourceError(f"{name}: cannot be read: {one_line(watched.failure)}") from watched.failure


class _WatchedStream:
    """What h5py needs of a stream; keeps the first error."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream = stream
        self._name = name
        self.failure: Exception | None = None

    def __repr__(self) -> str:
        """Return the file's name, which h5py takes for that of the `h5py.File`."""
        return self._name

    def seek(self, at: int, whence: int = io.SEEK_SET) -> int:
        return int(self._noting_failure(self._stream.seek, at, whence))

    def tell(self) -> int:
        return int(self._noting_failure(self._stream.tell))

    def read(self, byte_length: int = -1) -> bytes:
        content: bytes = self._noting_failure(self._stream.read, byte_length)
        return content

    def _noting_failure(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            self.failure = self.failure or error
            raise
