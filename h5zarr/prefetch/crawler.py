"""The crawler: fetches what libhdf5 will read, level by level, before libhdf5 asks for it."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from h5zarr.prefetch.cache import PrefetchedFile
from h5zarr.prefetch.fetch import FIRST_BYTES
from h5zarr.prefetch.fields import Fields
from h5zarr.prefetch.object_header import (
    BTREE_K,
    CACHE_IMAGE,
    FILE_SPACE_INFO,
    SHARED_MESSAGES,
    Message,
    read_object_header,
)
from h5zarr.prefetch.objects import follow_object
from h5zarr.prefetch.ranges import BLOCK_BYTES, Span
from h5zarr.prefetch.shared_messages import read_shared_table
from h5zarr.prefetch.superblock import Superblock, read_superblock
from h5zarr.prefetch.tasks import FORMAT_ERRORS, Crawl, FileFormat, Interest, Task, Views, attempt, together

_MOST_BYTES = 384 * 2**20
_MOST_ROUNDS = 1000
_LARGEST_PAGE_BYTES = 2 * 2**20
_PAGED = 1


class Crawler:
    """Runs readers over a file as far as what is in memory goes, then fetches what they wait for.

    Parameters
    ----------
    file
        The file.
    interest
        What of it will be read.
    first_bytes
        What is fetched of the beginning before anything is known (bytes).
    """

    def __init__(self, file: PrefetchedFile, interest: Interest, *, first_bytes: int = FIRST_BYTES) -> None:
        self.superblock: Superblock | None = None
        """The superblock, once it has been read."""
        self._file = file
        self._first_bytes = first_bytes
        self._interest = interest
        self._crawl = self._new_crawl(FileFormat(byte_length=file.byte_length))
        self._ready: deque[tuple[Task, Views | None]] = deque()
        self._waiting: list[tuple[Task, tuple[Span, ...]]] = []

    def run(self) -> None:
        """Fetch everything that can be foreseen.

        Raises
        ------
        SourceError
            The file cannot be read.
        """
        beginning = Span(byte_offset=0, byte_length=min(self._first_bytes, self._file.byte_length))
        self._file.prefetch([beginning])
        self._start(self._begin())
        limit = self._file.statistics.byte_length + _MOST_BYTES
        for _ in range(_MOST_ROUNDS):
            self._run_ready()
            wanted = [*self._crawl.hints, *(span for _, spans in self._waiting for span in spans)]
            self._crawl.hints.clear()
            if not wanted or self._file.is_whole or self._file.statistics.byte_length > limit:
                return
            self._file.prefetch(wanted)
            self._resume()

    def _new_crawl(self, file_format: FileFormat) -> Crawl:
        return Crawl(file_format, self._interest, self._start)

    def _start(self, task: Task) -> None:
        self._ready.append((task, None))

    def _run_ready(self) -> None:
        """Run readers as far as they come, and no longer than there is something left to fetch."""
        while self._ready and not (self._file.is_whole and self.superblock is not None):
            task, views = self._ready.popleft()
            self._advance(task, views)

    def _advance(self, task: Task, views: Views | None) -> None:
        """Run a task until it ends or needs what is not in memory."""
        try:
            while True:
                spans = next(task) if views is None else task.send(views)
                views = self._views(spans)
                if views is None:
                    self._waiting.append((task, spans))
                    return
        except (StopIteration, *FORMAT_ERRORS):
            return

    def _views(self, spans: tuple[Span, ...]) -> Views | None:
        views = []
        for span in spans:
            view = self._file.view(span)
            if view is None:
                return None
            views.append(view)
        return tuple(views)

    def _resume(self) -> None:
        """Make the tasks ready whose bytes have come; what does not fit into memory is given up."""
        waiting, self._waiting = self._waiting, []
        for task, spans in waiting:
            views = self._views(spans)
            if views is not None:
                self._ready.append((task, views))

    # What comes before the first object --------------------------------------------------

    def _begin(self) -> Task:
        superblock = yield from read_superblock(self._file.byte_length)
        self.superblock = superblock
        self._crawl = self._new_crawl(superblock.format)
        if superblock.extension_address is not None:
            # What is wrong with it does not keep the rest from being read.
            yield from together(self._read_extension(superblock.extension_address))
        self._start(follow_object(self._crawl, superblock.root_address, "/"))

    def _read_extension(self, address: int) -> Task:
        """Read the superblock's extension (HDF5 File Format Specification, II.C)."""
        messages = yield from read_object_header(self._crawl, address)
        for message in messages:
            attempt(self._learn, message)
            if message.kind == SHARED_MESSAGES:
                yield from read_shared_table(self._crawl, message.body)

    def _learn(self, message: Message) -> None:
        fields = Fields(message.body, self._crawl.format)
        fields.skip(1)
        if message.kind == BTREE_K:
            self._learn_node_sizes(fields)
        elif message.kind == FILE_SPACE_INFO:
            self._learn_page_size(fields)
        elif message.kind == CACHE_IMAGE:
            self._crawl.hint(fields.address(), fields.length())

    def _learn_node_sizes(self, fields: Fields) -> None:
        """Parse a B-tree 'K' values message (IV.A.2.t)."""
        chunk_k, internal_k, leaf_k = fields.uint(2), fields.uint(2), fields.uint(2)
        known = self._crawl.format
        self._crawl.format = replace(known, chunk_k=chunk_k, group_internal_k=internal_k, group_leaf_k=leaf_k)

    def _learn_page_size(self, fields: Fields) -> None:
        """Parse a file space info message (IV.A.2.x): with paged aggregation, whole pages are fetched."""
        strategy = fields.uint(1)
        fields.skip(1)
        fields.length()
        page_bytes = fields.length()
        if strategy == _PAGED and page_bytes % BLOCK_BYTES == 0 and 0 < page_bytes <= _LARGEST_PAGE_BYTES:
            self._file.page_bytes = page_bytes
