"""A real Zarr store with a copy of the chunks: their stored bytes as they are, each an object or in shards.

Every node has its own ``zarr.json``, and the root's carries all of them as consolidated metadata. There
the key ``h5zarr`` tells where the chunks come from: readers pass over it, and editors drop it.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
from fsspec.utils import stringify_path

from h5zarr.errors import OutputError, ReferencesError
from h5zarr.model import ArrayNode, GroupNode, Hierarchy
from h5zarr.output import whole_folder
from h5zarr.prefetch.redact import describe, redact
from h5zarr.protocols import is_local, options_of
from h5zarr.references import keys, provenance
from h5zarr.references.chunk_copy import ArrayCopy, Chunks, StoredObject
from h5zarr.references.portable import portable_codecs, without_own_types
from h5zarr.references.provenance import Provenance
from h5zarr.references.shards import choose_sharding
from h5zarr.references.source_check import unchanged_sources
from h5zarr.references.store_limits import with_strict_attributes, without_metadata_names
from h5zarr.references.stored_bytes import StoredBytes

Progress = Callable[[int, int], None]

_PROVENANCE_KEY = "h5zarr"
_LOCAL_THREADS = 4
_REMOTE_THREADS = 8
_BATCHES_PER_THREAD = 2
_UNSAFE_NAMES = frozenset({"", ".", ".."})


def expressible(hierarchy: Hierarchy, *, portable: bool = False) -> Hierarchy:
    """Return a hierarchy without what a Zarr store cannot hold; its problems tell of it.

    Parameters
    ----------
    hierarchy
        What is to be written. The result of a result is the same.
    portable
        Also leave out what only h5zarr and zarr-python read: h5zarr's own data types, and attributes
        that are not standard JSON.
    """
    kept = without_metadata_names(hierarchy)
    if not portable:
        return kept
    return with_strict_attributes(without_own_types(kept), "other readers", remedy="leave out --portable")


def write(
    hierarchy: Hierarchy,
    out: str | os.PathLike[str],
    *,
    version: str,
    shard_bytes: int | None = None,
    portable: bool = False,
    source_options: Mapping[str, Any] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write a Zarr v3 store with copies of all chunks, whole or not at all.

    Chunks keep their stored bytes and codecs; nothing is decoded, but for ``portable``.

    Parameters
    ----------
    hierarchy
        What to write; `expressible` tells what will be left out.
    out
        Path or fsspec URL of the store. What goes to a URL is put together in a local temporary
        folder first.
    version
        Version of h5zarr, for the provenance.
    shard_bytes
        Pack chunks into shards of about so many stored bytes; None: each chunk is an object.
    portable
        Decode chunks whose codecs are not in `h5zarr.references.portable.PORTABLE_CODECS`, and encode
        them with ``zstd``.
    source_options
        Options of the fsspec filesystem of the files that the hierarchy refers to.
    storage_options
        Options of the fsspec filesystem of ``out``.
    progress
        Called with the stored bytes copied so far and the stored bytes of all chunks.

    Raises
    ------
    OutputError
        It cannot be written.
    SourceChangedError
        A file is not the one that was scanned.
    SourceError
        A file cannot be read, or ends before a chunk does.
    """
    hierarchy = expressible(hierarchy, portable=portable)
    target = redact(stringify_path(out))
    _check_names(hierarchy, target)
    options = dict(source_options or {})
    copies = [_copy_of(array, shard_bytes, portable) for array in hierarchy.arrays()]
    nodes: dict[str, GroupNode | ArrayNode] = {**hierarchy.nodes}
    nodes.update((copy.array.path, _described(copy)) for copy in copies)
    with (
        whole_folder(out, last=keys.METADATA_KEY, storage_options=storage_options) as folder,
        unchanged_sources(hierarchy, options),
    ):
        writer = _Writer(target=target, folder=folder)
        _copy_all(copies, StoredBytes(options), writer, progress)
        for key, document in _documents(replace(hierarchy, nodes=nodes), version):
            text = json.dumps(document, separators=(",", ":"))
            writer.put(StoredObject(key=key, pieces=[text.encode()]))


def _check_names(hierarchy: Hierarchy, target: str) -> None:
    """Refuse names that lead out of the store or into no file, which references of others may have."""
    for path in hierarchy.nodes:
        if path != "/" and not _is_file_name(path):
            raise OutputError(f"{target}: {path!r} is no name of a node; these references are damaged")


def _is_file_name(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in path and _UNSAFE_NAMES.isdisjoint(path.split("/")[1:])


def _copy_of(array: ArrayNode, shard_bytes: int | None, portable: bool) -> ArrayCopy:
    sharding = None
    if shard_bytes is not None:
        sharding = choose_sharding(array.metadata, array.manifest, shard_bytes)
    codecs = portable_codecs(array.metadata) if portable else array.metadata["codecs"]
    if codecs == array.metadata["codecs"]:
        return ArrayCopy(array=array, sharding=sharding, transcoder=None)
    # zarr takes long to import.
    from h5zarr.references.transcode import Transcoder

    transcoder = Transcoder(metadata=array.metadata, codecs=codecs)
    return ArrayCopy(array=array, sharding=sharding, transcoder=transcoder)


def _described(copy: ArrayCopy) -> ArrayNode:
    """Return an array with the metadata of its copy."""
    metadata = dict(copy.array.metadata)
    if copy.transcoder is not None:
        metadata["codecs"] = list(copy.transcoder.codecs)
    if copy.sharding is not None:
        metadata = copy.sharding.in_metadata(metadata)
    return replace(copy.array, metadata=metadata)


def _documents(hierarchy: Hierarchy, version: str) -> Iterator[tuple[str, Any]]:
    for key, document in keys.v3_documents(hierarchy, keys.DEFAULT):
        if key == keys.METADATA_KEY:
            document["consolidated_metadata"][_PROVENANCE_KEY] = provenance.to_json(hierarchy, version)
        yield key, document


# Copying ---------------------------------------------------------------------------------


def _copy_all(
    copies: Iterable[ArrayCopy], stored: StoredBytes, writer: _Writer, progress: Progress | None
) -> None:
    """Copy all chunks in threads, a few batches at a time."""
    copies = list(copies)
    total = sum(copy.byte_length for copy in copies)
    done = 0
    locations = (url for copy in copies for url in copy.array.manifest.locations)
    threads = _LOCAL_THREADS if all(map(is_local, locations)) else _REMOTE_THREADS
    with ThreadPoolExecutor(threads) as pool:
        for byte_length in _limited(pool, _calls(copies, stored, writer), threads * _BATCHES_PER_THREAD):
            done += byte_length
            if progress is not None:
                progress(done, total)


def _calls(copies: Iterable[ArrayCopy], stored: StoredBytes, writer: _Writer) -> Iterator[partial[int]]:
    for copy in copies:
        for chunks in copy.batches():
            yield partial(_copy_batch, copy, chunks, stored, writer)


def _copy_batch(copy: ArrayCopy, chunks: Chunks, stored: StoredBytes, writer: _Writer) -> int:
    for each in copy.objects(chunks, stored):
        writer.put(each)
    return int(chunks.byte_length.sum())


def _limited(pool: ThreadPoolExecutor, calls: Iterable[partial[int]], most_under_way: int) -> Iterator[int]:
    """Yield what comes of calls, with so many under way that memory is bounded."""
    under_way: deque[Future[int]] = deque()
    try:
        for call in calls:
            under_way.append(pool.submit(call))
            if len(under_way) >= most_under_way:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        for future in under_way:
            future.cancel()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Writer:
    """Writes objects into a local folder; threads may share it."""

    target: str
    """The store, for messages."""
    folder: Path
    """Where its objects are put."""
    made: set[Path] = field(default_factory=set)
    """Folders that are there."""

    def put(self, each: StoredObject) -> None:
        """Write an object."""
        path = self.folder / each.key
        try:
            self._make_folder(path.parent)
            with path.open("xb") as stream:
                stream.writelines(each.pieces)
        except OSError as error:
            raise OutputError(
                f"{self.target}: {each.key} cannot be written: {error.strerror or error}"
            ) from error

    def _make_folder(self, folder: Path) -> None:
        if folder not in self.made:
            folder.mkdir(parents=True, exist_ok=True)
            self.made.add(folder)


# Reading ---------------------------------------------------------------------------------


def read_provenance(
    url: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None
) -> Provenance:
    """Return where the chunks of a store come from; that nothing is known where others made or edited it.

    Parameters
    ----------
    url
        Path or fsspec URL of the store.
    storage_options
        Options of the fsspec filesystem.

    Raises
    ------
    ReferencesError
        There is no Zarr store.
    """
    name = redact(stringify_path(url))
    key = f"{stringify_path(url).rstrip('/')}/{keys.METADATA_KEY}"
    options = options_of(key, storage_options)
    try:
        with fsspec.open(key, "rb", **options) as stream:
            document = json.load(stream)
        told = (document.get("consolidated_metadata") or {}).get(_PROVENANCE_KEY)
    except FileNotFoundError as error:
        raise ReferencesError(f"{name}: has no {keys.METADATA_KEY}: is no Zarr v3 store") from error
    except (AttributeError, ImportError, OSError, ValueError) as error:
        raise ReferencesError(f"{name}: cannot be read: {describe(error)}") from error
    return provenance.from_json(told)
