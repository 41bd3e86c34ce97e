"""Whether the files that references point into are still those that were scanned."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from h5zarr.errors import SourceChangedError
from h5zarr.identity import still_there, unchanged
from h5zarr.model import Hierarchy, SourceIdentity
from h5zarr.prefetch import redact
from h5zarr.references.provenance import known_files
from h5zarr.references.stored_bytes import cut_off
from h5zarr.source import identify
from h5zarr.versions import difference

_ASKED_AT_ONCE = 16


def known_sources(hierarchy: Hierarchy) -> dict[str, SourceIdentity]:
    """Return the files of which a hierarchy tells, by URL.

    Raises
    ------
    SourceChangedError
        As `by_url`.
    """
    return by_url(known_files(hierarchy))


def by_url(told: Iterable[SourceIdentity]) -> dict[str, SourceIdentity]:
    """Return identities of files by URL; of those of one file, the one that tells most.

    Raises
    ------
    SourceChangedError
        Two tell of different files of one URL: references into one of them are wrong, and who only knew
        the other identity would read them all the same.
    """
    known: dict[str, SourceIdentity] = {}
    for identity in told:
        url = identity.url
        other = known.setdefault(url, identity)
        found = difference(other, identity)
        if found is not None:
            raise SourceChangedError(
                f"{redact(url)}: was scanned twice and changed in between: {found}; convert it again"
            )
        known[url] = max(other, identity, key=_completeness)
    return known


def _completeness(identity: SourceIdentity) -> tuple[bool, int]:
    """Return what is more where more is known by which a file is told from another one."""
    known = (identity.byte_length, identity.modified, identity.etag)
    return not identity.is_local_copy, sum(value is not None for value in known)


@contextlib.contextmanager
def unchanged_sources(hierarchy: Hierarchy, source_options: Mapping[str, Any]) -> Iterator[None]:
    """Look before and after the block whether all files that a hierarchy refers to are as they were.

    Parameters
    ----------
    hierarchy
        Its source, and those of its parts, tell what was scanned; other files must not change in
        between.
    source_options
        Options of the fsspec filesystem of the files.

    Raises
    ------
    SourceChangedError
        One of them is another one.
    SourceError
        One cannot be asked, or is shorter than references tell.
    """
    ends = _ends(hierarchy)
    ask = functools.partial(identify, storage_options=source_options)
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        now = dict(zip(ends, pool.map(ask, ends), strict=True))
    known = known_sources(hierarchy)
    for url, identity in now.items():
        if url in known:
            check_scanned(url, known[url], identity)
        if identity.byte_length is not None and identity.byte_length < ends[url]:
            raise cut_off(url, identity.byte_length, ends[url])
    with contextlib.ExitStack() as stack:
        for url, identity in now.items():
            find_difference = still_there(functools.partial(ask, url), identity)
            stack.enter_context(unchanged(redact(url), find_difference))
        yield


def _ends(hierarchy: Hierarchy) -> dict[str, int]:
    """Return how far references reach in each file (bytes)."""
    ends: dict[str, int] = {}
    for array in hierarchy.arrays():
        manifest = array.manifest
        which = np.zeros(len(manifest.grid_position), np.uint32)
        reached = np.zeros(len(manifest.locations), np.uint64)
        which = which if manifest.location_index is None else manifest.location_index
        np.maximum.at(reached, which, manifest.byte_offset + manifest.byte_length)
        for url, end in zip(manifest.locations, map(int, reached), strict=True):
            if end:
                ends[url] = max(ends.get(url, 0), end)
    return ends


def check_scanned(url: str, scanned: SourceIdentity, now: SourceIdentity) -> None:
    """Check that a file is still the one that was scanned.

    Raises
    ------
    SourceChangedError
        It is another one.
    """
    found = difference(scanned, now)
    if found is not None:
        raise SourceChangedError(
            f"{redact(url)}: is not the file that was scanned: {found}; convert it again"
        )
