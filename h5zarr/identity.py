"""Asking what tells a file from a later version of it, and whether it is still that one."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fsspec import AbstractFileSystem

from h5zarr.errors import (
    H5zarrError,
    NotHDF5Error,
    SourceChangedError,
    SourceError,
    SourceNotFoundError,
)
from h5zarr.model import SourceIdentity
from h5zarr.prefetch import one_line, redact
from h5zarr.versions import difference, told_identity

_SECONDS_BEFORE_ATTEMPTS = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
_TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)
_BROKEN = (errno.ECONNABORTED, errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT)
_GONE = (404, 410)


def remote_identity(filesystem: AbstractFileSystem, path: str, url: str) -> SourceIdentity:
    """Ask a filesystem for a file's length, time and entity tag, past what it has cached of them.

    Parameters
    ----------
    filesystem
        Any fsspec filesystem.
    path
        The file, as the filesystem names it.
    url
        The file's URL.

    Raises
    ------
    SourceError
        There is no such file, or it cannot be asked.
    """
    with source_errors(url):
        info = _fresh_info(filesystem, path)
    if info.get("type") == "directory":
        raise NotHDF5Error(f"{redact(url)}: is a folder, not an HDF5 file; name one file")
    return told_identity(url, info, info.get("size"))


def local_identity(status: os.stat_result, url: str) -> SourceIdentity:
    """Return the identity of a file on this machine."""
    return SourceIdentity(url=url, byte_length=status.st_size, modified=status.st_mtime)


@contextlib.contextmanager
def unchanged(name: str, find_difference: Callable[[], str | None]) -> Iterator[None]:
    """Look at the end whether a file is still the one that was opened.

    Parameters
    ----------
    name
        The file, for messages.
    find_difference
        Returns what tells that it is another one, or None.

    Raises
    ------
    SourceChangedError
        It is another one; a file that changes under libhdf5 may also look damaged.
    SourceError
        It cannot be asked.
    """
    try:
        yield
    except SourceChangedError:
        raise
    except H5zarrError as error:
        found = None
        with contextlib.suppress(SourceError):
            found = find_difference()
        if found is not None:
            raise _changed(name, found) from error
        raise
    found = find_difference()
    if found is not None:
        raise _changed(name, found)


def still_there(ask: Callable[[], SourceIdentity], before: SourceIdentity) -> Callable[[], str | None]:
    """Return a function that asks for the identity once more and tells what became another one."""

    def find_difference() -> str | None:
        try:
            return difference(before, ask())
        except SourceNotFoundError:
            return "it is gone"

    return find_difference


def _changed(name: str, found: str) -> SourceChangedError:
    return SourceChangedError(
        f"{name}: changed while it was read: {found}; wait until nothing writes to it, then try again"
    )


@contextlib.contextmanager
def source_errors(url: str) -> Iterator[None]:
    """Raise what filesystems raise, each the errors of its own client library, as one.

    Raises
    ------
    SourceError
        In one line, without credentials.
    """
    name = redact(url)
    try:
        yield
    except SourceError:
        raise
    except FileNotFoundError as error:
        if is_refusal(error.__cause__):
            raise SourceError(f"{name}: cannot be read: {one_line(error.__cause__)}") from error
        raise SourceNotFoundError(f"{name}: no such file; check the URL") from error
    # Filesystems let their client libraries' own classes through (aiohttp, botocore), which need not
    # be installed here to be named; nothing is swallowed.
    except Exception as error:
        raise SourceError(f"{name}: cannot be read: {one_line(error) or type(error).__name__}") from error


def is_of_filesystem(error: Exception) -> bool:
    """Return whether a filesystem raised it: an OSError, or a class of its client library's own.

    Such libraries (aiohttp, botocore) need not be installed here to be named. What else Python itself
    raises is a mistake of a program.
    """
    if isinstance(error, OSError):
        return True
    return not isinstance(error, H5zarrError) and type(error).__module__ != "builtins"


def is_refusal(cause: BaseException | None) -> bool:
    """Return whether a file was not found because it was not given: fsspec tells both in one way for HTTP."""
    status = getattr(cause, "status", None)
    if isinstance(status, int):
        return status not in _GONE
    return _is_transient(cause) or (isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError))


# Asking ----------------------------------------------------------------------------------


def _fresh_info(filesystem: AbstractFileSystem, path: str) -> Mapping[str, Any]:
    """Return what a filesystem tells of a file now, after further attempts where the server is busy."""
    for seconds in _SECONDS_BEFORE_ATTEMPTS:
        time.sleep(seconds)
        # s3fs, gcsfs and adlfs answer from the listing of the folder, where they have one.
        filesystem.invalidate_cache(path)
        try:
            info: Mapping[str, Any] = filesystem.info(path)
        # As of `source_errors`; what another attempt cannot mend is raised.
        except Exception as error:
            failure = error
            if not _is_transient(error):
                raise
        else:
            return info
    raise failure


def _is_transient(error: BaseException | None) -> bool:
    """Return whether another attempt may mend a failure."""
    if isinstance(error, FileNotFoundError):
        error = error.__cause__
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return status in _TRANSIENT_STATUS
    if isinstance(error, OSError):
        return isinstance(error, TimeoutError) or error.errno in _BROKEN
    # A connection that ends before the answer is none of Python's own errors in aiohttp.
    return type(error).__name__ in ("ServerDisconnectedError", "ClientPayloadError")
