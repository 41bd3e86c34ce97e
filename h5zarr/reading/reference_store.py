"""A read-only Zarr store of references: the values of its keys stand in other files.

It gives what fsspec's reference filesystem gives, and raises where that would give less: a range that
is shorter than its reference tells is an error. Chunks are read in threads, without an event loop.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype

from h5zarr.reading.data_files import Content, DataFiles, Scratch
from h5zarr.reading.lookup import Lookup, Reference

_FILES_AT_ONCE = 32
_READ_ONLY = "references are read-only; write a copy elsewhere"


class ReferenceStore(Store):
    """What references and the files that they point into hold; threads may share it, and it pickles.

    Parameters
    ----------
    lookup
        What each key refers to.
    files
        The files.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, lookup: Lookup, files: DataFiles) -> None:
        super().__init__(read_only=True)
        self.lookup = lookup
        self.files = files
        self._kept: dict[str, bytes] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReferenceStore) and (self.lookup, self.files) == (other.lookup, other.files)

    __hash__ = object.__hash__

    def with_read_only(self, read_only: bool = False) -> ReferenceStore:
        """Return a store of the same references; it cannot be but read-only."""
        if not read_only:
            raise ValueError(_READ_ONLY)
        return type(self)(self.lookup, self.files)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}

    # Reading

    def find(self, key: str) -> bytes | Reference | None:
        """Return what a key refers to; None where there is no such key."""
        return self._kept.get(key) or self.lookup.get(key)

    def keep(self, keys: Iterable[str]) -> None:
        """Read what will be read one after the other, all at once, and keep it.

        It is for small values of remote files, such as coordinates; those of local files stay there.

        Raises
        ------
        SourceError
            A file cannot be read, or is not the one that the references were made of.
        """
        found = {key: self.lookup.get(key) for key in keys}
        wanted: dict[str, list[tuple[str, Reference]]] = defaultdict(list)
        for key, reference in found.items():
            if isinstance(reference, Reference) and not self.files.are_local([reference]):
                wanted[reference.url].append((key, reference))
        with ThreadPoolExecutor(_FILES_AT_ONCE) as threads:
            for contents in threads.map(self._contents, wanted.values()):
                self._kept |= contents

    def _contents(self, wanted: Sequence[tuple[str, Reference]]) -> dict[str, bytes]:
        """Return the values of keys that refer to one file."""
        keys, references = zip(*sorted(wanted, key=lambda pair: pair[1].byte_offset), strict=True)
        contents = self.files.read(references, Scratch())
        return {key: bytes(content) for key, content in zip(keys, contents, strict=True)}

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the value of a key or a range of it; None where there is no such key."""
        found = self.find(key)
        if found is None:
            return None
        if isinstance(found, bytes):
            return prototype.buffer.from_bytes(_part(found, byte_range))
        content = await asyncio.to_thread(self._read, found, byte_range)
        return prototype.buffer.from_bytes(content)

    def _read(self, reference: Reference, byte_range: ByteRequest | None) -> Content:
        if reference.byte_length is None:
            return _part(next(self.files.read([reference], Scratch())), byte_range)
        wanted = range(reference.byte_length)[_slice(byte_range, reference.byte_length)]
        byte_offset = reference.byte_offset + wanted.start
        part = Reference(url=reference.url, byte_offset=byte_offset, byte_length=len(wanted))
        return next(self.files.read([part], Scratch()))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return ranges of the values of several keys."""
        return await asyncio.gather(*(self.get(key, prototype, wanted) for key, wanted in key_ranges))

    async def exists(self, key: str) -> bool:
        """Return whether there is a key."""
        return key in self.lookup

    # Listing

    async def list(self) -> AsyncIterator[str]:
        """Yield all keys."""
        for key in self.lookup:
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys that begin with a prefix."""
        for key in self.lookup:
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names directly below a prefix."""
        folder = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
        inside = (key[len(folder) :] for key in self.lookup if key.startswith(folder))
        for name in dict.fromkeys(key.partition("/")[0] for key in inside):
            yield name

    # Writing

    async def set(self, key: str, value: Buffer) -> None:
        """Raise ValueError: references are read-only."""
        raise ValueError(_READ_ONLY)

    async def delete(self, key: str) -> None:
        """Raise ValueError: references are read-only."""
        raise ValueError(_READ_ONLY)


def _part(content: Content, byte_range: ByteRequest | None) -> Content:
    return content if byte_range is None else content[_slice(byte_range, len(content))]


def _slice(byte_range: ByteRequest | None, byte_length: int) -> slice:
    """Return the part of a value that is asked for."""
    match byte_range:
        case None:
            return slice(None)
        case RangeByteRequest(start=start, end=end):
            return slice(start, end)
        case OffsetByteRequest(offset=start):
            return slice(start, None)
        case SuffixByteRequest(suffix=length):
            return slice(max(0, byte_length - length), None)
    raise TypeError(f"{byte_range!r} is no range of bytes")
