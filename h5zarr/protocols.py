"""Which URLs name files on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fsspec.core import split_protocol

LOCAL = frozenset({None, "file", "local"})
"""fsspec's protocols of files on this machine; None: a path."""


def is_local(url: str) -> bool:
    """Return whether a path or URL names a file on this machine."""
    return split_protocol(url)[0] in LOCAL


def options_of(url: str, storage_options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the options of the fsspec filesystem of a path or URL; local ones take none."""
    return {} if is_local(url) else dict(storage_options or {})
