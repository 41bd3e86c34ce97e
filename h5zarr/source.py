"""From a URL to an open HDF5 file and its identity.

A source may be a path, an fsspec URL, an open binary file or an open `h5py.File`.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import fsspec
import h5py
from fsspec.core import split_protocol, url_to_fs
from fsspec.utils import stringify_path

from h5zarr.errors import (
    DamagedFileError,
    NotHDF5Error,
    SourceError,
    SourceNotFoundError,
)
from h5zarr.model import SourceIdentity

Source = str | os.PathLike[str] | IO[bytes] | h5py.File
"""What can be scanned."""

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_LARGEST_USER_BLOCK = 2**40
_REMOTE_BLOCK_BYTES = 2**20


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OpenSource:
    """An open HDF5 file."""

    file: h5py.File
    """The file, open for reading."""
    identity: SourceIdentity
    """Where references find it, and what tells it from a later version."""
    url: str
    """Where it is read from."""


@contextlib.contextmanager
def open_source(
    source: Source,
    *,
    storage_options: Mapping[str, Any] | None = None,
    public_url: str | None = None,
) -> Iterator[OpenSource]:
    """Open an HDF5 file for reading.

    Parameters
    ----------
    source
        Path, fsspec URL, open binary file, or open `h5py.File`; the last two stay open.
    storage_options
        Options of the fsspec filesystem.
    public_url
        The URL to name in references, where it is not the one that is read from.

    Raises
    ------
    SourceError
        The file cannot be read; the subclass tells why.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(source, h5py.File):
            identity = _file_identity(source, public_url)
            yield OpenSource(file=source, identity=identity, url=identity.url)
        elif isinstance(source, (str, os.PathLike)):
            yield _open_url(stringify_path(source), dict(storage_options or {}), public_url, stack)
        else:
            yield _open_stream(source, public_url, stack)


def local_url(path: str | os.PathLike[str]) -> str:
    """Return the URL of a local file: ``file://`` and its absolute path."""
    return "file://" + Path(path).absolute().as_posix()


def identify(url: str, storage_options: Mapping[str, Any] | None = None) -> SourceIdentity:
    """Return what tells the file at ``url`` from a later version of it.

    Raises
    ------
    SourceError
        There is no such file, or it cannot be asked.
    """
    filesystem, path = _filesystem(url, dict(storage_options or {}))
    return _remote_identity(filesystem, path, url)


def _open_url(
    url: str, storage_options: dict[str, Any], public_url: str | None, stack: contextlib.ExitStack
) -> OpenSource:
    protocol, path = split_protocol(url)
    if protocol in (None, "file", "local"):
        return _open_local(path, public_url, stack)
    filesystem, path = _filesystem(url, storage_options)
    identity = _remote_identity(filesystem, path, public_url or url)
    try:
        stream = filesystem.open(path, "rb", block_size=_REMOTE_BLOCK_BYTES, cache_type="blockcache")
    except OSError as error:
        raise SourceError(f"{url}: cannot be opened: {error}") from error
    file = _open_hdf5(stack.enter_context(stream), url)
    return OpenSource(file=stack.enter_context(file), identity=identity, url=url)


def _open_local(path: str, public_url: str | None, stack: contextlib.ExitStack) -> OpenSource:
    try:
        with Path(path).open("rb") as stream:
            status = os.fstat(stream.fileno())
            _check_signature(stream, path)
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"{path}: no such file; check the path") from error
    except IsADirectoryError as error:
        raise NotHDF5Error(f"{path}: is a folder, not an HDF5 file; name one file") from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from error
    identity = SourceIdentity(
        url=public_url or local_url(path), byte_length=status.st_size, modified=status.st_mtime
    )
    file = stack.enter_context(_open_hdf5(path, path))
    return OpenSource(file=file, identity=identity, url=local_url(path))


def _open_stream(stream: IO[bytes], public_url: str | None, stack: contextlib.ExitStack) -> OpenSource:
    url = public_url or _stream_url(stream)
    if url is None:
        raise SourceError("an open file without a name needs public_url, the URL that references name")
    byte_length = stream.seek(0, io.SEEK_END)
    file = stack.enter_context(_open_hdf5(stream, url))
    return OpenSource(file=file, identity=SourceIdentity(url=url, byte_length=byte_length), url=url)


def _stream_url(stream: IO[bytes]) -> str | None:
    """Return the URL of an open file, where the file knows it."""
    full_name = getattr(stream, "full_name", None)
    if isinstance(full_name, str):
        return full_name
    name = getattr(stream, "name", None)
    return local_url(name) if isinstance(name, str) else None


def _file_identity(file: h5py.File, public_url: str | None) -> SourceIdentity:
    on_disk = file.driver in ("sec2", "stdio") and Path(file.filename).is_file()
    if not on_disk:
        if public_url is None:
            raise SourceError("an h5py.File that is no local file needs public_url, the URL that references name")
        return SourceIdentity(url=public_url)
    status = Path(file.filename).stat()
    return SourceIdentity(
        url=public_url or local_url(file.filename), byte_length=status.st_size, modified=status.st_mtime
    )


def _filesystem(url: str, storage_options: dict[str, Any]) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        filesystem, path = url_to_fs(url, **storage_options)
    except (ImportError, ValueError) as error:
        raise SourceError(f"{url}: {error}") from error
    return filesystem, path


def _remote_identity(filesystem: fsspec.AbstractFileSystem, path: str, url: str) -> SourceIdentity:
    try:
        info = filesystem.info(path)
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"{url}: no such file; check the URL") from error
    except OSError as error:
        raise SourceError(f"{url}: cannot be read: {error}") from error
    if info.get("type") == "directory":
        raise NotHDF5Error(f"{url}: is a folder, not an HDF5 file; name one file")
    etag = info.get("ETag") or info.get("etag")
    return SourceIdentity(
        url=url,
        byte_length=info.get("size"),
        modified=_modified(info),
        etag=etag.strip('"') if isinstance(etag, str) else None,
    )


def _modified(info: Mapping[str, Any]) -> float | None:
    """Return the time of modification from whatever key the filesystem uses."""
    for key in ("mtime", "LastModified", "last_modified", "updated"):
        value = info.get(key)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, (int, float)):
            return float(value)
    return None


def _check_signature(stream: IO[bytes], name: str) -> None:
    """Look for the signature at 0, 512, 1024, … (HDF5 File Format Specification, II.A)."""
    byte_length = stream.seek(0, io.SEEK_END)
    if byte_length == 0:
        raise NotHDF5Error(f"{name}: is empty; check how it was written or copied")
    at = 0
    while at < min(byte_length, _LARGEST_USER_BLOCK):
        stream.seek(at)
        if stream.read(len(_SIGNATURE)) == _SIGNATURE:
            return
        at = at * 2 or 512
    raise NotHDF5Error(f"{name}: is not an HDF5 file; h5zarr reads HDF5 and netCDF-4 only")


def _open_hdf5(target: str | IO[bytes], name: str) -> h5py.File:
    if not isinstance(target, str):
        _check_signature(target, name)
    try:
        return h5py.File(target, "r")
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise DamagedFileError(f"{name}: libhdf5 cannot open it: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
