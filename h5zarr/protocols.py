"""Which URLs name files on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import split_protocol
from fsspec.implementations.cached import CachingFileSystem

LOCAL = frozenset({None, "file", "local"})
"""fsspec's protocols of files on this machine; None: a path."""


def is_local(url: str) -> bool:
    """Return whether a path or URL names a file on this machine."""
    return split_protocol(url)[0] in LOCAL


def options_of(url: str, storage_options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the options of the fsspec filesystem of a path or URL; local ones take none."""
    return {} if is_local(url) else dict(storage_options or {})


def without_caches(
    filesystem: AbstractFileSystem, path: str, url: str
) -> tuple[AbstractFileSystem, str, str]:
    """Return the filesystem below those that keep copies, the path there, and the URL.

    Copies may be older than what these filesystems tell of files, and several threads that read one
    see it while it is written.
    """
    while isinstance(filesystem, CachingFileSystem):
        url = url.partition("::")[2] or url
        filesystem, path = filesystem.fs, filesystem.fs._strip_protocol(path)
    return filesystem, path, url
