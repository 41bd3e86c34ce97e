"""Has zarr-python open arrays of rectilinear chunk grids, which it does from 3.4 on where it is told to."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import zarr

_SETTING = "array.rectilinear_chunks"

_lock = threading.Lock()
_users = 0
_while_used = contextlib.ExitStack()


@contextlib.contextmanager
def reading_all_grids() -> Iterator[None]:
    """Let zarr read metadata of any chunk grid.

    Arrays that were opened can be read afterwards, by any thread. zarr has one configuration for all
    threads: the first that comes here changes it, and the last changes it back.
    """
    if zarr.config.get(_SETTING, None) is None:
        yield
        return
    _count(1)
    try:
        yield
    finally:
        _count(-1)


def _count(more: int) -> None:
    global _users  # noqa: PLW0603 - there is one configuration
    with _lock:
        if not _users:
            _while_used.enter_context(zarr.config.set({_SETTING: True}))
        _users += more
        if not _users:
            _while_used.close()
