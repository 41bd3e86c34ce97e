"""What a file costs to read over a network, and what would make it cost less."""

from __future__ import annotations

import math
import posixpath
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from h5zarr.model import JSON, Dataset, FetchStatistics, FileScan, Layout, Selection, Shape, grid_shape
from h5zarr.protocols import is_local
from h5zarr.text import count, human_bytes, printable

_SMALL_CHUNK_BYTES = 2**20
_LARGE_CHUNK_BYTES = 64 * 2**20
_LEAST_PROPOSED_BYTES = 4 * 2**20
_MOST_PROPOSED_BYTES = 16 * 2**20
_QUANTILES = (0, 0.25, 0.5, 0.75, 1)

_READ_ALONG_BYTES = 64 * 1024
"""Ranges that are nearer to one another than this are read as one."""
_LEAST_STRUCTURE_BYTES = 512
"""Shorter holes between chunks are padding."""
_FEW_PLACES = 8
_SMALL_FILE_BYTES = 2**20
_LEAST_PAGE_BYTES = 64 * 1024
_MOST_PAGE_BYTES = 4 * 2**20
_MOST_PAGE_WASTE = 0.05

_MANY_CHUNKS = 16
_WORTH_FEWER = 4
"""A dataset is worth rewriting for this many times fewer chunks."""
_MOST_NAMED = 20
_LONGEST_NAME_BYTES = 250
_LONGEST_EXTENT = 10**9 - 1


Int64Column = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkLengths:
    """How long the stored chunks of a file are."""

    count: int
    """How many there are."""
    byte_length: int
    """What they take together (bytes)."""
    quantiles: tuple[int, ...]
    """Shortest, first quarter, median, third quarter and longest (bytes); () where there are none."""
    small_share: float
    """Share of those below 1 MiB, 0 to 1."""
    large_share: float
    """Share of those over 64 MiB, 0 to 1."""

    def to_json(self) -> dict[str, JSON]:
        """Return the lengths as JSON."""
        return {
            "count": self.count,
            "byte_length": self.byte_length,
            "quantiles": list(self.quantiles),
            "small_share": self.small_share,
            "large_share": self.large_share,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """One thing that h5repack can mend."""

    found: str
    """What there is, and what would be better."""
    options: tuple[str, ...]
    """Options of h5repack; () where it has none for it."""

    def to_json(self) -> dict[str, JSON]:
        """Return the advice as JSON."""
        return {"found": self.found, "options": list(self.options)}


@dataclass(frozen=True, kw_only=True, slots=True)
class IoPlan:
    """What a file costs to read over a network."""

    url: str
    """The file."""
    fetched: FetchStatistics | None
    """What the scan has cost; None of a local file."""
    byte_length: int | None
    """Length of the file (bytes); None where it is not known."""
    page_byte_length: int | None
    """Length of the pages that hold either metadata or data (bytes); None where the file has none."""
    metadata_byte_length: int | None
    """What is no data of a dataset: metadata, values on heaps, free space (bytes); None where not the
    whole file was scanned."""
    metadata_places: int | None
    """In how many ranges that stands, those less than 64 KiB apart taken together; None likewise."""
    chunks: ChunkLengths
    """The chunks of all chunked datasets."""
    verdict: str
    """Whether the file is easy to read over a network, in words."""
    advice: tuple[Advice, ...]
    """What would make it easier."""

    @property
    def command(self) -> str | None:
        """Shell command that follows all advice; None where there is none."""
        options = [option for advice in self.advice for option in advice.options]
        if not options:
            return None
        # What is repacked is a copy on a disk, which has no query.
        name = posixpath.basename(self.url.partition("?")[0] if not is_local(self.url) else self.url)
        stem, ending = posixpath.splitext(name)
        return shlex.join(["h5repack", *options, name, f"{stem}_repacked{ending}"])

    def to_json(self) -> dict[str, JSON]:
        """Return all of it as JSON; lengths are bytes."""
        return {
            "requests": _counted(self.fetched, "requests"),
            "fetched_byte_length": _counted(self.fetched, "byte_length"),
            "round_trips": _counted(self.fetched, "round_trips"),
            "misses": _counted(self.fetched, "misses"),
            "retries": _counted(self.fetched, "retries"),
            "byte_length": self.byte_length,
            "page_byte_length": self.page_byte_length,
            "metadata_byte_length": self.metadata_byte_length,
            "metadata_places": self.metadata_places,
            "chunks": self.chunks.to_json(),
            "verdict": self.verdict,
            "advice": [advice.to_json() for advice in self.advice],
            "command": self.command,
        }

    def lines(self) -> list[str]:
        """Return it for people."""
        return [
            f"scan      {_fetched_text(self.fetched)}",
            f"metadata  {_metadata_text(self)}",
            f"chunks    {_chunks_text(self.chunks)}",
            f"verdict   {self.verdict}",
            *self._advice_lines(),
        ]

    def _advice_lines(self) -> list[str]:
        lines = [f"advice    {printable(advice.found)}" for advice in self.advice]
        if self.command is not None:
            lines.append(f"          {printable(self.command)}")
            lines.append(
                "          (on a local copy; netCDF-4 files stay netCDF-4; nccopy -c changes chunks too)"
            )
        return lines


def io_plan(found: FileScan) -> IoPlan:
    """Return what a scanned file costs to read over a network, and what would make it cost less.

    Parameters
    ----------
    found
        The scanned file.
    """
    metadata = _metadata_spans(found)
    lengths = _joined([dataset.chunk_index.byte_length for dataset in found.datasets if _is_chunked(dataset)])
    facts = _Facts(
        found=found,
        places=None if metadata is None else _places(*metadata),
        metadata_byte_length=None if metadata is None else int((metadata[1] - metadata[0]).sum()),
        lengths=lengths,
    )
    advice = tuple(_advice(facts))
    return IoPlan(
        url=found.source.url,
        fetched=found.fetched,
        byte_length=found.source.byte_length,
        page_byte_length=found.page_byte_length,
        metadata_byte_length=facts.metadata_byte_length,
        metadata_places=facts.places,
        chunks=_chunk_lengths(lengths),
        verdict=_verdict(facts, friendly=not advice),
        advice=advice,
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Facts:
    found: FileScan
    places: int | None
    metadata_byte_length: int | None
    lengths: Int64Column

    @property
    def is_small(self) -> bool:
        """Whether the whole file is read at once."""
        byte_length = self.found.source.byte_length
        return byte_length is not None and byte_length <= _SMALL_FILE_BYTES

    @property
    def reads(self) -> int | None:
        """In how many reads the metadata come; what was fetched tells it better than holes among the data."""
        known = [self.places, self.found.fetched.requests if self.found.fetched else None]
        return min((number for number in known if number is not None), default=None)

    @property
    def is_scattered(self) -> bool:
        """Whether metadata come in many reads."""
        page_byte_length = self.found.page_byte_length or 0
        many = self.reads is not None and self.reads > _FEW_PLACES
        return many and not self.is_small and page_byte_length < _LEAST_PAGE_BYTES


# Where metadata are ----------------------------------------------------------------------


def _joined(columns: Iterable[npt.NDArray[np.uint64]]) -> Int64Column:
    return np.concatenate([np.zeros(0, np.int64), *(column.astype(np.int64) for column in columns)])


def _metadata_spans(found: FileScan) -> tuple[Int64Column, Int64Column] | None:
    """Return begin and end of what is no data, (n,) bytes each; None where not all data are known."""
    if found.source.byte_length is None or found.selection != Selection():
        return None
    indexes = [dataset.chunk_index for dataset in found.datasets if _is_here(dataset)]
    begin = _joined([index.byte_offset for index in indexes])
    end = begin + _joined([index.byte_length for index in indexes])
    order = np.argsort(begin, kind="stable")
    starts = np.append(0, np.maximum.accumulate(end[order]))
    stops = np.append(begin[order], found.source.byte_length)
    holes = stops - starts >= _LEAST_STRUCTURE_BYTES
    return starts[holes], stops[holes]


def _is_here(dataset: Dataset) -> bool:
    """Return whether the chunk index tells of data in the scanned file."""
    return dataset.layout in (Layout.CHUNKED, Layout.CONTIGUOUS) and not dataset.urls


def _is_chunked(dataset: Dataset) -> bool:
    return dataset.layout is Layout.CHUNKED and not dataset.urls and not dataset.datatype.on_heap


def _places(starts: Int64Column, stops: Int64Column) -> int:
    """Return in how many reads spans come, when near ones are read as one."""
    return len(starts) and 1 + int((starts[1:] - stops[:-1] > _READ_ALONG_BYTES).sum())


# Chunks ----------------------------------------------------------------------------------


def _chunk_lengths(lengths: Int64Column) -> ChunkLengths:
    number = len(lengths)
    quantiles = np.quantile(lengths, _QUANTILES, method="lower").tolist() if number else []
    return ChunkLengths(
        count=number,
        byte_length=int(lengths.sum()),
        quantiles=tuple(map(int, quantiles)),
        small_share=float((lengths < _SMALL_CHUNK_BYTES).mean()) if number else 0.0,
        large_share=float((lengths > _LARGE_CHUNK_BYTES).mean()) if number else 0.0,
    )


def _better_chunk_shape(dataset: Dataset) -> Shape | None:
    """Return a chunk shape of 4 to 16 MiB before filters; None where the present one does as well."""
    if (
        not _is_chunked(dataset)
        or not dataset.shape
        or not dataset.chunk_shape
        or not len(dataset.chunk_index)
    ):
        return None
    stored = len(dataset.chunk_index)
    mean = dataset.stored_byte_length / stored
    if mean > _LARGE_CHUNK_BYTES:
        return _shrunk(dataset.shape, dataset.chunk_shape, dataset.datatype.byte_length)
    if mean >= _SMALL_CHUNK_BYTES or stored < _MANY_CHUNKS or _is_sparse(dataset):
        return None
    proposed = _grown(dataset.shape, dataset.chunk_shape, dataset.datatype.byte_length)
    fewer = math.prod(grid_shape(dataset.shape, proposed)) * _WORTH_FEWER <= stored
    return proposed if fewer else None


def _is_sparse(dataset: Dataset) -> bool:
    """Return whether most chunks were never written: larger ones would be stored full of fill values."""
    return len(dataset.chunk_index) * 2 < math.prod(dataset.chunk_index.grid_shape)


def _grown(shape: Shape, chunk_shape: Shape, item_bytes: int) -> Shape:
    """Return a chunk shape doubled along the axis with the most chunks until it is long enough."""
    grown = [min(chunk, extent) for chunk, extent in zip(chunk_shape, shape, strict=True)]
    while math.prod(grown) * item_bytes < _LEAST_PROPOSED_BYTES and tuple(grown) != shape:
        numbers = grid_shape(shape, tuple(grown))
        axis = numbers.index(max(numbers))
        grown[axis] = min(2 * grown[axis], shape[axis])
    return tuple(grown)


def _shrunk(shape: Shape, chunk_shape: Shape, item_bytes: int) -> Shape:
    """Return a chunk shape halved along its longest axis until it is short enough."""
    shrunk = [min(chunk, extent) for chunk, extent in zip(chunk_shape, shape, strict=True)]
    while math.prod(shrunk) * item_bytes > _MOST_PROPOSED_BYTES and max(shrunk) > 1:
        axis = shrunk.index(max(shrunk))
        shrunk[axis] = -(-shrunk[axis] // 2)
    return tuple(shrunk)


# Advice ----------------------------------------------------------------------------------


def _advice(facts: _Facts) -> Iterable[Advice]:
    if facts.is_small:
        return
    if facts.is_scattered:
        yield _page_advice(facts)
    proposals: dict[Shape, list[Dataset]] = {}
    for dataset in facts.found.datasets:
        chunk_shape = _better_chunk_shape(dataset)
        if chunk_shape is not None:
            proposals.setdefault(chunk_shape, []).append(dataset)
    for chunk_shape, datasets in proposals.items():
        yield _chunk_advice(chunk_shape, datasets)


def _page_advice(facts: _Facts) -> Advice:
    page_byte_length = _best_page(facts)
    return Advice(
        found=f"metadata in {facts.reads:,} places: gather them in pages of {human_bytes(page_byte_length)}",
        options=("-S", "PAGE", "-G", str(page_byte_length)),
    )


def _best_page(facts: _Facts) -> int:
    """Return a page length that holds the metadata in few pages and wastes little between chunks."""
    fetched = facts.found.fetched.byte_length if facts.found.fetched is not None else 0
    metadata = fetched if facts.metadata_byte_length is None else facts.metadata_byte_length
    page = _LEAST_PAGE_BYTES
    while page < min(metadata, _MOST_PAGE_BYTES):
        page *= 2
    while page > _LEAST_PAGE_BYTES and _page_waste(facts.lengths, page) > _MOST_PAGE_WASTE:
        page //= 2
    return page


def _page_waste(lengths: Int64Column, page_byte_length: int) -> float:
    """Return how much longer the data get, as a share: no chunk shares a page that it does not fit into."""
    together = np.maximum(page_byte_length // np.maximum(lengths, 1), 1)
    taken = -(-lengths // page_byte_length) * page_byte_length / together
    return float(taken.sum()) / max(int(lengths.sum()), 1) - 1


def _chunk_advice(chunk_shape: Shape, datasets: Sequence[Dataset]) -> Advice:
    """Return the advice to give datasets another chunk shape."""
    stored = sum(len(dataset.chunk_index) for dataset in datasets)
    mean = sum(dataset.stored_byte_length for dataset in datasets) // stored
    by_count = sorted(datasets, key=lambda dataset: len(dataset.chunk_index), reverse=True)
    named = [dataset.path for dataset in by_count if _can_be_named(dataset.path, chunk_shape)][:_MOST_NAMED]
    others = count(len(datasets) - 1, "other")
    who = by_count[0].path + (f" and {others}" if len(datasets) > 1 else "")
    extents = "x".join(map(str, chunk_shape))
    text = f"{who}: {count(stored, 'chunk')} of {human_bytes(mean)} on average: better in chunks of {extents}"
    if len(named) < len(datasets):
        text += f" (the command below names {len(named)})"
    return Advice(found=text, options=("-l", f"{','.join(named)}:CHUNK={extents}") if named else ())


def _can_be_named(path: str, chunk_shape: Shape) -> bool:
    """Return whether h5repack's option for layouts can take a path and a shape."""
    fits = len(path.encode("utf-8", "surrogateescape")) <= _LONGEST_NAME_BYTES
    return fits and "," not in path and path.isprintable() and max(chunk_shape) <= _LONGEST_EXTENT


# Words -----------------------------------------------------------------------------------


def _verdict(facts: _Facts, *, friendly: bool) -> str:
    if facts.is_small:
        return "cloud-friendly: so small that it is read whole"
    words = [_metadata_verdict(facts), _chunks_verdict(facts.lengths)]
    return ("cloud-friendly: " if friendly else "not cloud-friendly: ") + ", ".join(filter(None, words))


def _metadata_verdict(facts: _Facts) -> str:
    page_byte_length = facts.found.page_byte_length
    if facts.is_scattered:
        return f"metadata scattered over {facts.reads:,} places"
    if page_byte_length is not None and page_byte_length >= _LEAST_PAGE_BYTES:
        return "metadata in pages"
    return "" if facts.reads is None else "metadata together"


def _chunks_verdict(lengths: Int64Column) -> str:
    """Return what most of the data are in, by bytes."""
    half = lengths.sum() / 2
    if not len(lengths):
        return "no chunks"
    if lengths[lengths < _SMALL_CHUNK_BYTES].sum() > half:
        return "most data in chunks below 1 MiB"
    if lengths[lengths > _LARGE_CHUNK_BYTES].sum() > half:
        return "most data in chunks over 64 MiB"
    return "chunks of a good length"


def _counted(fetched: FetchStatistics | None, name: str) -> int | None:
    return None if fetched is None else int(getattr(fetched, name))


def _fetched_text(fetched: FetchStatistics | None) -> str:
    if fetched is None:
        return "a local file: nothing was fetched"
    return ", ".join(
        [
            count(fetched.requests, "request"),
            human_bytes(fetched.byte_length),
            count(fetched.round_trips, "round trip"),
            count(fetched.misses, "miss", "misses"),
            count(fetched.retries, "retry", "retries"),
        ]
    )


def _metadata_text(plan: IoPlan) -> str:
    pages = f"; pages of {human_bytes(plan.page_byte_length)}" if plan.page_byte_length else ""
    if plan.metadata_byte_length is None or plan.metadata_places is None:
        return f"unknown: not the whole file was scanned{pages}"
    length, places = human_bytes(plan.metadata_byte_length), count(plan.metadata_places, "place")
    return f"at most {length} in {places}, values on heaps and free space included{pages}"


def _chunks_text(chunks: ChunkLengths) -> str:
    if not chunks.count:
        return "none"
    shortest, _, median, _, longest = map(human_bytes, chunks.quantiles)
    return (
        f"{count(chunks.count, 'chunk')}, {human_bytes(chunks.byte_length)}: {shortest} to {longest}, "
        f"median {median}; {chunks.small_share:.0%} below 1 MiB, {chunks.large_share:.0%} over 64 MiB"
    )
