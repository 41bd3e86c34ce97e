"""From a URL to an open HDF5 file and its identity.

A source may be a path, an fsspec URL, an open binary file or an open `h5py.File`.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, TypeAlias

import fsspec
import h5py
from fsspec.core import OpenFile, split_protocol, url_to_fs
from fsspec.utils import stringify_path

from h5zarr.errors import (
    DamagedFileError,
    NotHDF5Error,
    SourceError,
    SourceNotFoundError,
)
from h5zarr.model import SourceIdentity
from h5zarr.prefetch import connection_options, open_prefetched

Source: TypeAlias = str | os.PathLike[str] | IO[bytes] | h5py.File
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ahead:
    """What of a remote file is fetched before libhdf5 asks for it."""

    root: str
    wants: Callable[[str], bool] | None


@contextlib.contextmanager
def open_source(
    source: Source,
    *,
    storage_options: Mapping[str, Any] | None = None,
    public_url: str | None = None,
    root: str = "/",
    wants: Callable[[str], bool] | None = None,
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
    root, wants
        Group below which, and datasets of which, the metadata of a remote file are fetched ahead.

    Raises
    ------
    SourceError
        The file cannot be read; the subclass tells why.
    """
    ahead = _Ahead(root=root, wants=wants)
    with contextlib.ExitStack() as stack:
        if isinstance(source, h5py.File):
            yield _open_file(source, public_url)
        elif isinstance(source, OpenFile):
            yield _open_stream(stack.enter_context(source), public_url or source.full_name, stack)
        elif isinstance(source, str | os.PathLike):
            yield _open_url(stringify_path(source), dict(storage_options or {}), public_url, stack, ahead)
        elif hasattr(source, "seek"):
            yield _open_stream(source, public_url, stack)
        else:
            kind = type(source).__name__
            raise TypeError(f"a {kind} cannot be scanned; give a path, URL, open binary file or h5py.File")


def local_url(path: str | os.PathLike[str]) -> str:
    """Return the URL of a local file: ``file://`` and its absolute path."""
    return "file://" + Path(path).absolute().as_posix()


def local_path(source: Source) -> Path | None:
    """Return the path of a source on this machine, None where it has none."""
    if isinstance(source, h5py.File):
        return Path(source.filename)
    name = source if isinstance(source, str | os.PathLike) else getattr(source, "name", None)
    protocol, path = split_protocol(stringify_path(name)) if isinstance(name, str | os.PathLike) else ("", "")
    return Path(path) if protocol in (None, "file", "local") else None


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
    url: str,
    storage_options: dict[str, Any],
    public_url: str | None,
    stack: contextlib.ExitStack,
    ahead: _Ahead,
) -> OpenSource:
    protocol, path = split_protocol(url)
    if protocol in (None, "file", "local"):
        return _open_local(path, public_url, stack)
    if not _is_chained(url):
        storage_options = connection_options(protocol, storage_options)
    filesystem, path = _filesystem(url, storage_options)
    identity = _remote_identity(filesystem, path, public_url or url)
    if identity.byte_length == 0:
        raise _empty(url)
    with _source_errors(url):
        if identity.byte_length is None or _is_chained(url):
            stream = filesystem.open(path, "rb", block_size=_REMOTE_BLOCK_BYTES, cache_type="blockcache")
        else:
            stream = open_prefetched(
                filesystem, path, identity.byte_length, root=ahead.root, wants=ahead.wants
            )
    file = _open_hdf5(stack.enter_context(stream), url, stack)
    return OpenSource(file=file, identity=identity, url=url)


def _is_chained(url: str) -> bool:
    """Return whether one filesystem reads through another, such as ``simplecache::https://…``."""
    return "::" in url


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
    except ValueError as error:  # a NUL in the name
        raise SourceError(f"{path!r}: cannot be read: {error}") from error
    identity = SourceIdentity(
        url=public_url or local_url(path), byte_length=status.st_size, modified=status.st_mtime
    )
    file = stack.enter_context(_share(path, (status.st_dev, status.st_ino)))
    return OpenSource(file=file, identity=identity, url=local_url(path))


_FileKey = tuple[int, int]
"""Device and inode."""
_shared_files: dict[_FileKey, tuple[h5py.File, int]] = {}
_sharing = threading.Lock()


@contextlib.contextmanager
def _share(path: str, key: _FileKey) -> Iterator[h5py.File]:
    """Open a local file, once for all threads that have it open at the same time.

    libhdf5 2.0.0 crashes where one handle of a file is closed while variable-length data are read
    through another: both share the datatype, which points to the handle that opened it last.
    """
    with _sharing:
        file, users = _shared_files.get(key) or (_hdf5_file(path, path), 0)
        _shared_files[key] = (file, users + 1)
    try:
        yield file
    finally:
        with _sharing:
            file, users = _shared_files.pop(key)
            if users > 1:
                _shared_files[key] = (file, users - 1)
            else:
                file.close()


def _open_stream(stream: IO[bytes], public_url: str | None, stack: contextlib.ExitStack) -> OpenSource:
    byte_length = stream.seek(0, io.SEEK_END)
    url = public_url or _stream_url(stream, byte_length)
    if url is None:
        raise SourceError("an open file without a name needs public_url, the URL that references name")
    file = _open_hdf5(stream, url, stack)
    return OpenSource(file=file, identity=SourceIdentity(url=url, byte_length=byte_length), url=url)


def _stream_url(stream: IO[bytes], byte_length: int) -> str | None:
    """Return the URL of an open file, where the file knows it.

    A compressed file or a member of an archive has a name too, but not that of a file of its bytes.
    """
    full_name = getattr(stream, "full_name", None)
    if isinstance(full_name, str):
        return full_name
    name = getattr(stream, "name", None)
    if not isinstance(name, str) or not Path(name).is_file() or Path(name).stat().st_size != byte_length:
        return None
    return local_url(name)


def _open_file(file: h5py.File, public_url: str | None) -> OpenSource:
    if not file:
        raise SourceError("the h5py.File is closed; open it for reading")
    if file.mode != "r":
        file.flush()
    identity = _file_identity(file, public_url)
    return OpenSource(file=file, identity=identity, url=identity.url)


def _file_identity(file: h5py.File, public_url: str | None) -> SourceIdentity:
    on_disk = file.driver in ("sec2", "stdio") and Path(file.filename).is_file()
    if not on_disk:
        if public_url is None:
            raise SourceError(
                "an h5py.File that is no local file needs public_url, the URL that references name"
            )
        return SourceIdentity(url=public_url)
    status = Path(file.filename).stat()
    return SourceIdentity(
        url=public_url or local_url(file.filename), byte_length=status.st_size, modified=status.st_mtime
    )


@contextlib.contextmanager
def _source_errors(url: str) -> Iterator[None]:
    """Raise what filesystems raise, each the errors of its own client library, as one."""
    try:
        yield
    except SourceError:
        raise
    except FileNotFoundError as error:
        if _is_refusal(error.__cause__):
            raise SourceError(f"{url}: cannot be read: {_one_line(error.__cause__)}") from error
        raise SourceNotFoundError(f"{url}: no such file; check the URL") from error
    # Filesystems let their client libraries' own classes through (aiohttp, botocore), which need not
    # be installed here to be named; nothing is swallowed.
    except Exception as error:
        raise SourceError(f"{url}: cannot be read: {_one_line(error)}") from error


def _is_refusal(cause: BaseException | None) -> bool:
    """Return whether a file was not found because it was not given: fsspec tells both in one way for HTTP."""
    if isinstance(cause, OSError):
        return not isinstance(cause, FileNotFoundError)
    return getattr(cause, "status", 404) not in (404, 410)


def _filesystem(url: str, storage_options: dict[str, Any]) -> tuple[fsspec.AbstractFileSystem, str]:
    with _source_errors(url):
        filesystem, path = url_to_fs(url, **storage_options)
    return filesystem, path


def _remote_identity(filesystem: fsspec.AbstractFileSystem, path: str, url: str) -> SourceIdentity:
    with _source_errors(url):
        info = filesystem.info(path)
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
        raise _empty(name)
    at = 0
    while at < min(byte_length, _LARGEST_USER_BLOCK):
        stream.seek(at)
        if stream.read(len(_SIGNATURE)) == _SIGNATURE:
            return
        at = at * 2 or 512
    raise NotHDF5Error(f"{name}: is not an HDF5 file; h5zarr reads HDF5 and netCDF-4 only")


def _empty(name: str) -> NotHDF5Error:
    return NotHDF5Error(f"{name}: is empty; check how it was written or copied")


def _open_hdf5(stream: IO[bytes], name: str, stack: contextlib.ExitStack) -> h5py.File:
    """Open a stream until the stack is left."""
    watched = stack.enter_context(_watch(stream, name))
    _check_signature(watched, name)
    return stack.enter_context(_hdf5_file(watched, name))


def _hdf5_file(target: Any, name: str) -> h5py.File:
    try:
        return h5py.File(target, "r")
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise DamagedFileError(f"{name}: libhdf5 cannot open it: {_one_line(error)}") from error


@contextlib.contextmanager
def _watch(stream: IO[bytes], name: str) -> Iterator[Any]:
    """Raise why reading failed: libhdf5 passes on only that it did, and a damaged file looks the same."""
    watched = _WatchedStream(stream)
    try:
        yield watched
    # Whatever libhdf5 made of the failed reading, the stream's own error is raised instead, below.
    except Exception:
        if watched.failure is None:
            raise
    if isinstance(watched.failure, SourceError):
        raise watched.failure
    if watched.failure is not None:
        raise SourceError(f"{name}: cannot be read: {_one_line(watched.failure)}") from watched.failure


class _WatchedStream:
    """What h5py needs of a stream; keeps the first error."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.failure: Exception | None = None

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


def _one_line(error: BaseException | None) -> str:
    return " ".join(str(error).split())
