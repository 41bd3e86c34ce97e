"""Reading ranges of the files that references point into: local ones, and remote ones many at a time."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import split_protocol, strip_protocol, url_to_fs

from h5zarr.errors import SourceChangedError
from h5zarr.identity import local_identity, remote_identity, source_errors
from h5zarr.model import SourceIdentity
from h5zarr.prefetch import Span, connection_options, redact
from h5zarr.prefetch.fetch import Fetcher
from h5zarr.protocols import is_local, options_of, without_caches
from h5zarr.reading.looks import SharedLooks
from h5zarr.reading.lookup import Reference
from h5zarr.versions import difference, tells_as_much

Content = bytes | memoryview

_LARGEST_REMOTE_GAP_BYTES = 64 * 1024
_LARGEST_LOCAL_GAP_BYTES = 4 * 1024
"""Ranges of a file that are nearer to one another are read as one (bytes)."""
_LARGEST_REQUEST_BYTES = 2**20


def reach(url: str, storage_options: Mapping[str, Any]) -> tuple[AbstractFileSystem, str]:
    """Return the filesystem of a path or URL, and the path there; local ones take no options."""
    options = options_of(url, storage_options)
    if "::" not in url:
        options = connection_options(split_protocol(url)[0], options)
    filesystem, path = url_to_fs(url, **options)
    return filesystem, path


class Scratch(threading.local):
    """A buffer that each thread uses again: new ones would come from the system, and go back, each time."""

    def __init__(self) -> None:
        self._buffer = memoryview(b"")

    def take(self, byte_length: int) -> memoryview:
        """Return a buffer of so many bytes; it is the one that the thread took last."""
        if len(self._buffer) < byte_length:
            self._buffer = memoryview(bytearray(byte_length * 5 // 4))
        return self._buffer[:byte_length]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataPlaces:
    """Where the files are that references point into."""

    storage_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the fsspec filesystems of those that are remote."""
    protocol: str | None = None
    """Protocol of URLs that have none; None: they are local paths."""
    folder: Path = field(default_factory=Path.cwd)
    """What relative local paths begin at."""
    urls: Mapping[str, str] = field(default_factory=dict)
    """Where to read a file instead of where references say."""
    identities: tuple[SourceIdentity, ...] | None = ()
    """What is known of the files that references were made of, by which another file is noticed. None: files
    are not looked at."""


class DataFiles:
    """The files that references point into; threads may share it, and it pickles.

    Parameters
    ----------
    places
        Where they are.
    """

    def __init__(self, places: DataPlaces) -> None:
        self._places = places
        self._identities = {identity.url: identity for identity in places.identities or ()}
        self._remote_files: dict[str, _RemoteFile] = {}
        self._process = os.getpid()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return DataFiles, (self._places,)

    def are_local(self, references: Iterable[Reference]) -> bool:
        """Return whether all references point into files on this machine."""
        return all(is_local(self._url(url)) for url in {reference.url for reference in references})

    def _url(self, url: str) -> str:
        """Return where to read what references have under a URL."""
        url, protocol = self._places.urls.get(url, url), self._places.protocol
        return f"{protocol}://{url}" if protocol is not None and split_protocol(url)[0] is None else url

    def read(self, references: Sequence[Reference], scratch: Scratch) -> Iterator[Content]:
        """Yield the bytes that references point to; each is valid until the next one is asked for.

        Parameters
        ----------
        references
            (n,) references into one file, sorted by where they begin.
        scratch
            Where the bytes may be put.

        Raises
        ------
        SourceError
            The file cannot be read, or is not the one that the references were made of.
        """
        url, before = self._url(references[0].url), self._identities.get(references[0].url)
        if is_local(url):
            yield from self._read_local(url, before, references, scratch)
        else:
            yield from self._remote_file(url, before).read(references)

    def _read_local(
        self, url: str, before: SourceIdentity | None, references: Sequence[Reference], scratch: Scratch
    ) -> Iterator[Content]:
        with source_errors(url), self._open(url) as file:
            _check(url, before, local_identity(os.fstat(file.fileno()), url))
            if any(reference.byte_length is None for reference in references):
                yield from [file.read()] * len(references)
                return
            for run in _runs(references, _LARGEST_LOCAL_GAP_BYTES):
                buffer = scratch.take(run.stop - run.start)
                file.seek(run.start)
                found = _read_into(file, buffer)
                for reference, content in zip(run.references, run.contents([buffer]), strict=True):
                    if reference.byte_offset + len(content) > run.start + found:
                        raise _too_short(url, reference, run.start + found)
                    yield content

    def _open(self, url: str) -> FileIO:
        protocol, path = split_protocol(url)
        local = strip_protocol(url) if protocol else self._places.folder / Path(path).expanduser()
        return Path(local).open("rb", buffering=0)

    def _remote_file(self, url: str, before: SourceIdentity | None) -> _RemoteFile:
        with self._lock:
            if self._process != os.getpid():  # filesystems and their threads do not survive a fork
                self._remote_files, self._process = {}, os.getpid()
            if url not in self._remote_files:
                with source_errors(url):
                    filesystem, path, _ = without_caches(*reach(url, self._places.storage_options), url)
                    is_looked_at = self._places.identities is not None
                    self._remote_files[url] = _RemoteFile(
                        url, before, filesystem, path, is_looked_at=is_looked_at
                    )
            return self._remote_files[url]


def _check(url: str, before: SourceIdentity | None, now: SourceIdentity) -> None:
    found = None if before is None else difference(before, now)
    if found is not None:
        raise SourceChangedError(
            f"{redact(url)}: is not the file that the references were made of: {found}; make them anew"
        )


def _read_into(file: FileIO, buffer: memoryview) -> int:
    """Fill a buffer from a file, and return how much of it is filled (bytes): less where the file ends."""
    filled = 0
    while filled < len(buffer) and (count := file.readinto(buffer[filled:])):
        filled += count
    return filled


def _too_short(url: str, reference: Reference, end: int) -> SourceChangedError:
    found = max(0, end - reference.byte_offset)
    return SourceChangedError(
        f"{redact(url)}: has {found} bytes from byte {reference.byte_offset} on, where references tell of"
        f" {reference.byte_length}: it is not the file that they were made of; make them anew"
    )


# Remote files ----------------------------------------------------------------------------


class _RemoteFile:
    """A remote file, of which all bytes must be of the version that references were made of.

    Where references tell of none, all must be of one version. Answers tell of which they are, or the file is
    looked at after they came.
    """

    def __init__(
        self,
        url: str,
        before: SourceIdentity | None,
        filesystem: AbstractFileSystem,
        path: str,
        *,
        is_looked_at: bool,
    ) -> None:
        self._url, self._before = url, before
        self._filesystem, self._path = filesystem, path
        self._is_looked_at = is_looked_at
        self._fetcher = Fetcher(filesystem, path)
        self._looks = SharedLooks(self._look)
        self._seen: SourceIdentity | None = None

    def read(self, references: Sequence[Reference]) -> Iterator[Content]:
        """Yield the bytes that references point to."""
        if any(reference.byte_length is None for reference in references):
            yield from [self._whole()] * len(references)
            return
        runs = _runs(references, _LARGEST_REMOTE_GAP_BYTES)
        spans = [list(run.spans()) for run in runs]
        pieces = iter(self._fetch(list(itertools.chain.from_iterable(spans))))
        for run, parts in zip(runs, spans, strict=True):
            yield from run.contents(list(itertools.islice(pieces, len(parts))))

    def _whole(self) -> bytes:
        # Some servers tell of a file without being asked for its content that it is empty.
        byte_length = self._byte_length() if self._is_looked_at else None
        if byte_length:
            return self._fetch([Span(byte_offset=0, byte_length=byte_length)])[0]
        with source_errors(self._url):
            content: bytes = self._filesystem.cat_file(self._path)
        if self._is_looked_at:
            self._looks.look()
        return content

    def _byte_length(self) -> int | None:
        """Return the length of the file (bytes); None where nothing tells it."""
        if self._before is not None and self._before.byte_length is not None:
            return self._before.byte_length
        self._looks.look()
        return None if self._seen is None else self._seen.byte_length

    def _fetch(self, spans: Sequence[Span]) -> list[bytes]:
        """Return the bytes of each span, all of the right version."""
        if not spans:
            return []
        if self._is_looked_at and not self._fetcher.answers_tell and not self._is_known():
            self._looks.look()
        contents = self._fetcher.fetch(spans)
        if self._is_looked_at and not self._answers_suffice():
            self._looks.look()
        return contents

    def _is_known(self) -> bool:
        """Return whether a look can tell if bytes are of another version that came before it."""
        before = self._before
        told = before is not None and (before.etag is not None or before.modified is not None)
        return self._seen is not None or (before is not None and told and not before.is_local_copy)

    def _answers_suffice(self) -> bool:
        """Return whether the answers tell all that a look could."""
        told = self._fetcher.told
        if told is None:
            return False
        self._compare(told)
        return self._before is None or tells_as_much(told, self._before)

    def _look(self) -> None:
        now = remote_identity(self._filesystem, self._path, self._url)
        self._compare(now)
        if self._fetcher.told is not None:
            self._check_same(self._fetcher.told, now)
        self._seen = self._seen or now

    def _compare(self, now: SourceIdentity) -> None:
        """Compare the file with what references and the first look tell of it."""
        _check(self._url, self._before, now)
        if self._seen is not None:
            self._check_same(self._seen, now)

    def _check_same(self, known: SourceIdentity, now: SourceIdentity) -> None:
        found = difference(known, now)
        if found is not None:
            raise SourceChangedError(
                f"{redact(self._url)}: changed while it was read: {found}; open it again"
            )


@dataclass(kw_only=True, slots=True)
class _Run:
    """Ranges that are fetched as one."""

    start: int
    """Where the first begins (bytes)."""
    stop: int
    """Where the last one ends (bytes)."""
    references: list[Reference] = field(default_factory=list)
    """The ranges."""

    def spans(self) -> Iterator[Span]:
        """Yield its pieces, for several connections to share."""
        for at in range(self.start, self.stop, _LARGEST_REQUEST_BYTES):
            yield Span(byte_offset=at, byte_length=min(_LARGEST_REQUEST_BYTES, self.stop - at))

    def contents(self, pieces: Sequence[Content]) -> Iterator[Content]:
        """Yield the bytes of each range, of the bytes of the pieces."""
        whole = memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        for reference in self.references:
            first = reference.byte_offset - self.start
            yield whole[first : first + (reference.byte_length or 0)]


def _runs(references: Sequence[Reference], largest_gap: int) -> list[_Run]:
    """Return sorted ranges as runs, between which there are more bytes than the largest gap."""
    runs: list[_Run] = []
    for reference in references:
        start, stop = reference.byte_offset, reference.byte_offset + (reference.byte_length or 0)
        if not runs or start - runs[-1].stop > largest_gap:
            runs.append(_Run(start=start, stop=stop))
        runs[-1].stop = max(runs[-1].stop, stop)
        runs[-1].references.append(reference)
    return runs
