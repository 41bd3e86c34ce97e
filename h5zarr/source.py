"""From a URL to an open HDF5 file and its identity.

A source may be a path, an fsspec URL, an open binary file or an open `h5py.File`.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeAlias

import h5py
from fsspec import AbstractFileSystem
from fsspec.archive import AbstractArchiveFileSystem
from fsspec.core import OpenFile, split_protocol, url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import stringify_path

from h5zarr.errors import (
    NotHDF5Error,
    SourceChangedError,
    SourceError,
    SourceNotFoundError,
)
from h5zarr.identity import (
    local_identity,
    remote_identity,
    source_errors,
    still_there,
    unchanged,
)
from h5zarr.model import FetchStatistics, SourceIdentity
from h5zarr.prefetch import (
    Fetcher,
    Interest,
    PrefetchedFile,
    connection_options,
    holds_credentials,
    open_prefetched,
    redact,
)
from h5zarr.protocols import LOCAL, is_local, without_caches
from h5zarr.streams import check_signature, empty_file, open_hdf5, open_stream
from h5zarr.versions import difference

Source: TypeAlias = str | os.PathLike[str] | IO[bytes] | h5py.File
"""What can be scanned."""

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
    remote: PrefetchedFile | None = None
    """What fetches a remote file; None for others."""

    @property
    def fetched(self) -> FetchStatistics | None:
        """What reading a remote file has cost so far; None for others."""
        return None if self.remote is None else self.remote.statistics


@contextlib.contextmanager
def open_source(
    source: Source,
    *,
    storage_options: Mapping[str, Any] | None = None,
    public_url: str | None = None,
    interest: Interest | None = None,
) -> Iterator[OpenSource]:
    """Open an HDF5 file for reading, and look at the end whether it is still the same.

    Parameters
    ----------
    source
        Path, fsspec URL, open binary file, or open `h5py.File`; the last two stay open.
    storage_options
        Options of the fsspec filesystem.
    public_url
        The URL to name in references, where it is not the one that is read from.
    interest
        What of a remote file will be read, to fetch it ahead. None: everything.

    Raises
    ------
    SourceError
        The file cannot be read; the subclass tells why.
    """
    with contextlib.ExitStack() as stack:
        way = _Way(public_url=public_url, interest=interest, stack=stack)
        if isinstance(source, h5py.File):
            yield _open_file(source, way)
        elif isinstance(source, OpenFile):
            yield _open_fsspec_file(source, way)
        elif isinstance(source, str | os.PathLike):
            yield _open_url(stringify_path(source), dict(storage_options or {}), way)
        elif hasattr(source, "seek"):
            yield _open_stream(source, _stream_url(source), way)
        else:
            kind = type(source).__name__
            raise TypeError(f"a {kind} cannot be scanned; give a path, URL, open binary file or h5py.File")


def check_public(url: str, *, way_out: str = "by --public-url of h5zarr convert (public_url)") -> None:
    """Refuse a URL that may not stand in references.

    Parameters
    ----------
    url
        The URL.
    way_out
        How to give another one, for messages.

    Raises
    ------
    SourceError
        It holds credentials, or names no file that readers of references can open.
    """
    if holds_credentials(url):
        raise SourceError(
            f"{redact(url)}: the URL holds credentials, which must not stand in references; "
            f"give the URL without them {way_out}"
        )
    if _is_chained(url):
        raise SourceError(
            f"{redact(url)}: no reader of references opens a file inside of another one; "
            f"unpack it, or name the unpacked file {way_out}"
        )


def local_url(path: str | os.PathLike[str]) -> str:
    """Return the URL of a local file: ``file://`` and its absolute path."""
    return "file://" + Path(path).absolute().as_posix()


def local_path(source: Source) -> Path | None:
    """Return the path of a source on this machine, None where it has none."""
    if isinstance(source, h5py.File):
        return Path(source.filename)
    name = source if isinstance(source, str | os.PathLike) else getattr(source, "name", None)
    protocol, path = split_protocol(stringify_path(name)) if isinstance(name, str | os.PathLike) else ("", "")
    return Path(path) if protocol in LOCAL else None


def identify(url: str, storage_options: Mapping[str, Any] | None = None) -> SourceIdentity:
    """Return what tells the file at ``url`` from a later version of it.

    Raises
    ------
    SourceError
        There is no such file, or it cannot be asked.
    """
    with _without_secret_causes(url):
        filesystem, path, url = _reach(url, dict(storage_options or {}))
        return remote_identity(filesystem, path, url)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Way:
    """How a source is opened."""

    public_url: str | None
    """URL to name in references, where it is not the one that is read from."""
    interest: Interest | None
    """What of a remote file is fetched ahead."""
    stack: contextlib.ExitStack
    """What is closed in the end."""


# URLs ------------------------------------------------------------------------------------


def _open_url(url: str, storage_options: dict[str, Any], way: _Way) -> OpenSource:
    protocol, path = split_protocol(url)
    if protocol in LOCAL:
        return _open_local(path, way)
    way.stack.enter_context(_without_secret_causes(url))
    filesystem, path, url = _reach(url, storage_options)
    return _open_remote(filesystem, path, url, way)


def _open_remote(filesystem: AbstractFileSystem, path: str, url: str, way: _Way) -> OpenSource:
    with source_errors(url):
        fetcher = Fetcher(filesystem, path)
        fetcher.begin()
    identity = remote_identity(filesystem, path, url)
    if identity.byte_length == 0:
        raise empty_file(redact(url))
    ask = functools.partial(remote_identity, filesystem, path, url)
    way.stack.enter_context(unchanged(redact(url), _changes(fetcher, ask, identity)))
    with source_errors(url):
        if identity.byte_length is None or _is_chained(url):
            remote = None
            stream = filesystem.open(path, "rb", block_size=_REMOTE_BLOCK_BYTES, cache_type="blockcache")
        else:
            stream = remote = open_prefetched(
                fetcher, identity.byte_length, entity_tag=identity.etag, interest=way.interest
            )
    file = open_stream(way.stack.enter_context(stream), redact(url), way.stack)
    identity = replace(identity, url=way.public_url or url)
    return OpenSource(file=file, identity=identity, url=url, remote=remote)


def _changes(
    fetcher: Fetcher, ask: Callable[[], SourceIdentity], before: SourceIdentity
) -> Callable[[], str | None]:
    """Return a function that tells how answers, or the file as it is then, differ from the file before."""

    def find_difference() -> str | None:
        told = fetcher.told
        found = None if told is None else difference(before, told)
        return found or still_there(ask, before)()

    return find_difference


def _open_fsspec_file(source: OpenFile, way: _Way) -> OpenSource:
    """Open what `fsspec.open` returns; its filesystem is all that is needed of it."""
    # A member of an archive has a URL that says nothing of the archive.
    inside = isinstance(source.fs, AbstractArchiveFileSystem) or source.compression is not None
    if inside or source.mode != "rb":
        return _open_stream(way.stack.enter_context(source), None, way)
    if isinstance(source.fs, LocalFileSystem):
        return _open_local(source.path, way)
    way.stack.enter_context(_without_secret_causes(source.full_name))
    return _open_remote(*without_caches(source.fs, source.path, source.full_name), way)


def _is_chained(url: str) -> bool:
    """Return whether one filesystem reads through another, such as ``zip://x.h5::https://…``."""
    return "::" in url and not is_local(url)


def _reach(url: str, storage_options: dict[str, Any]) -> tuple[AbstractFileSystem, str, str]:
    """Return the filesystem of a file, its path there, and its URL."""
    protocol, local = split_protocol(url)
    if protocol in LOCAL:
        return LocalFileSystem(), local, url
    if not _is_chained(url):
        storage_options = connection_options(protocol, storage_options)
    with source_errors(url):
        filesystem, path = url_to_fs(url, **storage_options)
    return without_caches(filesystem, path, url)


@contextlib.contextmanager
def _without_secret_causes(url: str) -> Iterator[None]:
    """Leave out what an error was raised from where it may tell credentials: tracebacks show it."""
    try:
        yield
    except SourceError as error:
        if holds_credentials(url):
            raise error from None
        raise


# Local files -----------------------------------------------------------------------------


def _open_local(path: str, way: _Way) -> OpenSource:
    try:
        with Path(path).open("rb") as stream:
            status = os.fstat(stream.fileno())
            check_signature(stream, path)
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"{path}: no such file; check the path") from error
    except IsADirectoryError as error:
        raise NotHDF5Error(f"{path}: is a folder, not an HDF5 file; name one file") from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the name
        raise SourceError(f"{path!r}: cannot be read: {error}") from error
    url = local_url(path)
    way.stack.enter_context(_unchanged_local(path, status))
    file = way.stack.enter_context(_share(path, status))
    return OpenSource(file=file, identity=_published(local_identity(status, url), way), url=url)


def _published(identity: SourceIdentity, way: _Way) -> SourceIdentity:
    """Return the identity of a local file as references name it."""
    if way.public_url is None or way.public_url == identity.url:
        return identity
    return replace(identity, url=way.public_url, is_local_copy=True)


@contextlib.contextmanager
def _unchanged_local(path: str, status: os.stat_result) -> Iterator[None]:
    """Look at the end whether a local file is still the one that was opened."""
    absolute = Path(path).absolute()

    def find_difference() -> str | None:
        try:
            now = absolute.stat()
        except FileNotFoundError:
            return "it is gone"
        except OSError as error:
            return f"it cannot be looked at any more: {error.strerror}"
        found = difference(local_identity(status, path), local_identity(now, path))
        return found or (None if _file_key(now) == _file_key(status) else "it is another file")

    with unchanged(path, find_difference):
        yield


_FileKey = tuple[int, int]
"""Device and inode."""
_shared_files: dict[_FileKey, tuple[h5py.File, os.stat_result, int]] = {}
_sharing = threading.Lock()


def _file_key(status: os.stat_result) -> _FileKey:
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def _share(path: str, status: os.stat_result) -> Iterator[h5py.File]:
    """Open a local file, once for all threads that have it open at the same time.

    libhdf5 2.0.0 crashes where one handle of a file is closed while variable-length data are read
    through another: both share the datatype, which points to the handle that opened it last.
    """
    key = _file_key(status)
    with _sharing:
        file, opened, users = _shared_files.get(key) or (open_hdf5(path, path), status, 0)
        _check_version(path, opened, status)
        _shared_files[key] = (file, opened, users + 1)
    try:
        yield file
    finally:
        with _sharing:
            file, opened, users = _shared_files.pop(key)
            if users > 1:
                _shared_files[key] = (file, opened, users - 1)
            else:
                file.close()


def _check_version(path: str, opened: os.stat_result, status: os.stat_result) -> None:
    """Refuse a file that was written to since another thread opened it: libhdf5 keeps its old metadata."""
    found = difference(local_identity(opened, path), local_identity(status, path))
    if found is not None:
        raise SourceChangedError(
            f"{path}: changed while another thread has it open: {found}; try again when that is done"
        )


# Open files ------------------------------------------------------------------------------


def _open_stream(stream: IO[bytes], own_url: str | None, way: _Way) -> OpenSource:
    url = way.public_url or own_url
    if url is None:
        raise SourceError("an open file without a name needs public_url, the URL that references name")
    byte_length = stream.seek(0, io.SEEK_END)
    identity = SourceIdentity(url=url, byte_length=byte_length)
    path = local_path(own_url) if own_url is not None else None
    if path is not None and path.is_file():
        status = path.stat()
        identity = local_identity(status, url)
        way.stack.enter_context(_unchanged_local(str(path), status))
    file = open_stream(stream, redact(url), way.stack)
    return OpenSource(file=file, identity=identity, url=url)


def _stream_url(stream: IO[bytes]) -> str | None:
    """Return the URL of an open file, where the file knows it.

    A compressed file or a member of an archive has a name too, but not that of a file of its bytes.
    """
    full_name = getattr(stream, "full_name", None)
    if isinstance(full_name, str):
        return full_name
    name = getattr(stream, "name", None)
    byte_length = stream.seek(0, io.SEEK_END)
    if not isinstance(name, str) or not Path(name).is_file() or Path(name).stat().st_size != byte_length:
        return None
    return local_url(name)


def _open_file(file: h5py.File, way: _Way) -> OpenSource:
    if not file:
        raise SourceError("the h5py.File is closed; open it for reading")
    if file.mode != "r":
        file.flush()
    identity = _file_identity(file, way)
    return OpenSource(file=file, identity=identity, url=identity.url)


def _file_identity(file: h5py.File, way: _Way) -> SourceIdentity:
    on_disk = file.driver in ("sec2", "stdio") and Path(file.filename).is_file()
    if not on_disk:
        if way.public_url is None:
            raise SourceError(
                "an h5py.File that is no local file needs public_url, the URL that references name"
            )
        return SourceIdentity(url=way.public_url)
    status = Path(file.filename).stat()
    if file.mode == "r":
        way.stack.enter_context(_unchanged_local(file.filename, status))
    return local_identity(status, way.public_url or local_url(file.filename))
