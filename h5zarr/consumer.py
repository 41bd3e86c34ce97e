"""References opened as their readers open them: fsspec's reference filesystem, or Icechunk, below zarr."""

from __future__ import annotations

import math
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from fsspec.core import split_protocol
from fsspec.utils import stringify_path
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, WrapperStore

from h5zarr.compare_arrays import READ_ERRORS, one_line
from h5zarr.errors import ReferencesError
from h5zarr.model import JSON, grid_shape
from h5zarr.protocols import LOCAL, is_local, options_of
from h5zarr.references import formats, keys, provenance
from h5zarr.references.provenance import Provenance

if TYPE_CHECKING:
    from h5zarr.references.formats import Format


References = str | os.PathLike[str] | Mapping[str, JSON]
"""Path or URL of references of any format, or fsspec's reference specification as a dict."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OpenReferences:
    """References as their readers have them."""

    store: CountingStore
    """The Zarr store."""
    entries: Mapping[str, Any]
    """What stands under each key of the store: under those of metadata, the documents."""
    provenance: Provenance
    """Where they come from."""


class CountingStore(WrapperStore[Store]):
    """A store that counts the bytes it gives.

    Parameters
    ----------
    store
        The store.
    is_far
        Tells whether the bytes under a key come from elsewhere.
    """

    def __init__(self, store: Store, is_far: Callable[[str], bool] = lambda _: False) -> None:
        super().__init__(store)
        self.byte_length = 0
        """Bytes that came from elsewhere."""
        self._is_far = is_far

    def _with_store(self, store: Store) -> CountingStore:
        return CountingStore(store, self._is_far)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return what stands under a key."""
        content = await self._store.get(key, prototype, byte_range)
        if content is not None and self._is_far(key):
            self.byte_length += len(content)
        return content


def open_references(
    references: References, storage_options: Mapping[str, Any], *, source_protocol: str | None
) -> OpenReferences:
    """Open references for reading.

    Parameters
    ----------
    references
        The references.
    storage_options
        Options of the filesystem that they point into; where they are remote themselves, of theirs too.
    source_protocol
        Protocol of the files that they point into, where they do not tell.

    Raises
    ------
    ReferencesError
        They cannot be read, or are no references.
    """
    if isinstance(references, Mapping):
        return _open_document(references, "references", storage_options, source_protocol)
    url = stringify_path(references)
    match formats.format_of(url):
        case "parquet":
            return _open_parquet(url, storage_options, source_protocol)
        case "icechunk" | "zarr" as chosen:
            return _open_store(url, chosen, storage_options)
        case _:
            document = formats.read_json(url, storage_options=storage_options)
            return _open_document(document, url, storage_options, source_protocol)


# fsspec's reference filesystem -----------------------------------------------------------


def _open_document(
    document: Any, name: str, storage_options: Mapping[str, Any], source_protocol: str | None
) -> OpenReferences:
    refs = document.get("refs", document) if isinstance(document, Mapping) else None
    if not isinstance(refs, Mapping) or not {"zarr.json", ".zgroup"} & refs.keys():
        raise ReferencesError(f"{name}: no references to a Zarr group; h5zarr convert makes them")
    with formats.reading(name):
        told = provenance.from_json(document.get("h5zarr"))
    store = _reference_store(document, told, storage_options, source_protocol)
    return _counted(store, store.fs.references, told)


def _open_parquet(
    url: str, storage_options: Mapping[str, Any], source_protocol: str | None
) -> OpenReferences:
    told = formats.read_provenance(url, storage_options=storage_options)
    store = _reference_store(url, told, storage_options, source_protocol)
    return _counted(store, ParquetEntries(store.fs.references, url, storage_options), told)


def _reference_store(
    references: Any, told: Provenance, storage_options: Mapping[str, Any], source_protocol: str | None
) -> FsspecStore:
    """Open references (READ_SIDE: both filesystems must be asynchronous)."""
    protocol = _protocol(told) or source_protocol
    # Without a protocol, fsspec looks for a URL below every group of Parquet references, where none is.
    is_told = protocol not in LOCAL or isinstance(references, str)
    remote: dict[str, Any] = {"remote_protocol": protocol or "file"} if is_told else {}
    if storage_options or remote:
        remote["remote_options"] = {**storage_options, "asynchronous": True}
    if isinstance(references, str) and not is_local(references):
        remote["target_options"] = dict(storage_options)
    options = {"fo": references, "asynchronous": True, **remote}
    try:
        return FsspecStore.from_url("reference://", storage_options=options, read_only=True)
    except READ_ERRORS as error:
        raise ReferencesError(f"fsspec cannot open the references: {one_line(error)}") from error


def _protocol(told: Provenance) -> str | None:
    """Return the protocol of the files that references point into."""
    sources = [told.source] if told.source is not None else [part.source for part in told.parts]
    return next((split_protocol(source.url)[0] for source in sources), None)


def _counted(store: Store, entries: Mapping[str, Any], told: Provenance) -> OpenReferences:
    is_far = _protocol(told) not in LOCAL

    def is_reference(key: str) -> bool:
        return is_far and key in entries and not isinstance(entries[key], str | bytes | dict)

    return OpenReferences(store=CountingStore(store, is_reference), entries=entries, provenance=told)


class ParquetEntries(Mapping[str, Any]):
    """What fsspec's mapper of Parquet references has; it loads the chunks' references when asked for them.

    Parameters
    ----------
    mapper
        The mapper.
    url
        Where the references are.
    storage_options
        Options of the filesystem there.
    """

    def __init__(self, mapper: Any, url: str, storage_options: Mapping[str, Any]) -> None:
        self._mapper = mapper
        self._load = partial(formats.load, url, storage_options=storage_options)

    def __getitem__(self, key: str) -> Any:
        # The mapper takes what it does not know for a chunk.
        if key.endswith(keys.METADATA_KEY) and key not in self._mapper.zmetadata:
            raise KeyError(key)
        return self._mapper[key]

    def __contains__(self, key: object) -> bool:
        try:
            self._mapper[key]
        except KeyError:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        """Yield all keys: the mapper itself would look for a chunk in every cell of every grid."""
        names = self._mapper.zmetadata
        if keys.METADATA_KEY not in names:
            yield from self._of_zarr_v2(names)
            return
        # Beside Zarr v3's metadata, what the mapper needs of v2's stands for no node.
        yield from (name for name in names if keys.METADATA_KEY not in names or not name.endswith(".zarray"))
        for array in self._load().arrays():
            manifest = array.manifest
            inline = np.array(sorted(manifest.inline), np.uint64)
            for positions in (manifest.grid_position, inline):
                yield from keys.V2.keys(array.path, manifest.grid_shape, positions)

    def _of_zarr_v2(self, names: Mapping[str, JSON]) -> Iterator[str]:
        """Yield all keys of Zarr v2, of which no hierarchy is loaded."""
        yield from names
        for name in names:
            path, _, last = name.rpartition("/")
            if last == ".zarray":
                grid = grid_shape(tuple(names[name]["shape"]), tuple(names[name]["chunks"]))
                positions = np.arange(math.prod(grid), dtype=np.uint64)
                yield from (key for key in keys.V2.keys(path, grid, positions) if key in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


# Stores ----------------------------------------------------------------------------------


def _open_store(url: str, chosen: Format, storage_options: Mapping[str, Any]) -> OpenReferences:
    told = formats.read_provenance(url, storage_options=storage_options)
    if chosen == "icechunk":
        from h5zarr.references import icechunk_store

        place, version = formats.repository_version(url)
        store: Store = icechunk_store.open_store(place, version=version, storage_options=storage_options)
    else:
        options = options_of(url, storage_options)
        absolute = url if "://" in url else Path(url).absolute().as_uri()
        store = FsspecStore.from_url(absolute, storage_options=options, read_only=True)
    return OpenReferences(store=CountingStore(store), entries=StoreEntries(store), provenance=told)


class StoreEntries(Mapping[str, Any]):
    """What stands in a Zarr store that is no reference filesystem.

    Parameters
    ----------
    store
        The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = frozenset(sync(_listed(store)))

    def __getitem__(self, key: str) -> bytes:
        content = sync(self._store.get(key, default_buffer_prototype()))
        if content is None:
            raise KeyError(key)
        return content.to_bytes()

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


async def _listed(store: Store) -> list[str]:
    listing: AsyncIterator[str] = store.list()
    return [key async for key in listing]
